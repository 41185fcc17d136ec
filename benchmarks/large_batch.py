"""What a batch of 512 takes in parts of 8 rows, beside a batch of 8, and beside plain steps.

    python benchmarks/large_batch.py

Peak memory of one step of late fusion in a process of its own, beside that of a process that
makes the same model and batch and takes no step. The towers are of middling size, so that
activations and not weights decide.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import record, timed

ROWS, SAMPLES, TOKENS, VOCABULARY = 8, 32_000, 32, 1000
CASES = {"8": (8, 1), "512 in 64 parts": (512, 64), "32, plain": (32, 1), "64, plain": (64, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=3, type=int, metavar=("BATCH", "PARTS", "STEPS"))
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(step(*args.worker)))
        return
    figures: dict[str, Any] = {}
    for name, (batch, parts) in CASES.items():
        without, with_step = (worker(batch, parts, steps) for steps in (0, 2))
        own = with_step["peak_bytes"] - without["peak_bytes"]
        figures[name] = {"bytes": own, "seconds": with_step["seconds"], "loss": with_step["loss"]}
        print(name, figures[name], flush=True)
    figures["512_over_8"] = figures["512 in 64 parts"]["bytes"] / figures["8"]["bytes"]
    target = "a batch of 512 in parts of 8 within 15 % of the memory of a batch of 8"
    inputs = {"samples": SAMPLES, "tokens": TOKENS, "cases": CASES}
    record("large_batch", {"target": target, "inputs": inputs, "figures": figures})


def step(batch_size: int, parts: int, steps: int) -> dict[str, Any]:
    """Peak memory of this process once it has taken some steps."""
    import jax

    run, loss = train_step(batch_size, parts), float("nan")

    def timed_step() -> None:
        nonlocal loss
        loss = run()

    seconds = [0.0, *(timed(timed_step) for _ in range(steps))][-1]
    seen = jax.devices()[0].memory_stats()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = int(seen["peak_bytes_in_use"]) if seen else peak
    return {"peak_bytes": peak, "seconds": seconds, "loss": loss}


def middling_model() -> Any:
    """Late fusion over frozen towers of middling size, of random weights."""
    from flax import nnx

    from mrl_jax.models.hubert import HubertConfig, HubertEncoder
    from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
    from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
    from mrl_jax.nn import param_tree

    rngs = nnx.Rngs(0)
    speech = HubertEncoder(
        HubertConfig(
            width=256, num_layers=4, num_heads=4, mlp_width=1024, conv_channels=(256,) * 7
        ),
        rngs=rngs,
    )
    sizes: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "head_width": 64, "mlp_width": 1024}
    text = Qwen3Encoder(
        Qwen3Config(
            vocab_size=VOCABULARY,
            width=256,
            num_layers=4,
            rope_theta=1e6,
            norm_epsilon=1e-6,
            **sizes,
        ),
        rngs=rngs,
    )
    towers = param_tree.freeze(speech), param_tree.freeze(text)
    return LateFusion(*towers, config=LateFusionConfig(), rngs=rngs)


def train_step(batch_size: int, parts: int) -> Callable[[], float]:
    """A step of that model that gives its loss; the first call compiles it."""
    import jax

    from mrl_jax.core.batch import Batch
    from mrl_jax.losses.config import LossConfig
    from mrl_jax.nn import param_tree
    from mrl_jax.training.contrastive.step import make_train_step
    from mrl_jax.training.devices import Devices
    from mrl_jax.training.optim import OptimConfig, make_optimizer
    from mrl_jax.training.state import init_state

    split = param_tree.split(middling_model())
    place = Devices("pmap", jax.devices()[:1])
    optimizer = make_optimizer(OptimConfig(warmup_fraction=0.0), 10)
    state = place.replicate(init_state(split.trained, optimizer))
    frozen = place.replicate(split.frozen)
    rng, rows = np.random.default_rng(0), np.arange(batch_size, dtype=np.int32)
    batch = place.put_batch(
        Batch(
            samples=rng.standard_normal((batch_size, SAMPLES), np.float32),
            lengths=np.full(batch_size, SAMPLES, np.int32),
            prompt=np.zeros((batch_size, 0), np.int32),
            prompt_mask=np.zeros((batch_size, 0), bool),
            document=rng.integers(0, VOCABULARY, (batch_size, TOKENS)).astype(np.int32),
            document_mask=np.ones((batch_size, TOKENS), bool),
            query_ids=rows,
            document_ids=rows,
            rows=np.ones(batch_size, bool),
        )
    )
    loss = LossConfig(dims=(256, 128, 64))
    options: dict[str, Any] = {"accumulation_steps": parts, "axis_name": place.axis_name}
    compiled = place.compile(make_train_step(split.rebuild, optimizer, loss, **options))

    def run() -> float:
        nonlocal state
        state, metrics = compiled(state, frozen, batch)
        return float(metrics["loss"])

    return run


def worker(batch_size: int, parts: int, steps: int) -> dict[str, Any]:
    """The same in a fresh process."""
    words = map(str, (batch_size, parts, steps))
    command = [sys.executable, str(Path(__file__)), "--worker", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
