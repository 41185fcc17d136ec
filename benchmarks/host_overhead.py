"""What the training loop adds to a step at toy size, and what an epoch of mixed lengths compiles.

    python benchmarks/host_overhead.py [--repeats 5]

The same steps three ways: back to back with batches on the device; through the training loop
(batches put there, metrics read and written, TensorBoard too) with batches made before; and with
Grain making them meanwhile. Compilations are counted from the second epoch on.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import record, summarize
from flax import nnx

from mrl_jax.checkpoints.new_towers import save_text_tower
from mrl_jax.checkpoints.train_state import RunCheckpoints
from mrl_jax.core.array_types import HostArray
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.plan import read_batches
from mrl_jax.data.batches.speech import BatchConfig, BatchSource
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.demo.towers import make_tokenizer, speech_config, text_config
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.hubert import HubertEncoder
from mrl_jax.models.init import initial_tower
from mrl_jax.models.inputs import normalize_clip
from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
from mrl_jax.nn import param_tree
from mrl_jax.training.contrastive.step import make_train_step
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import LoopConfig, Prepared, run_loop
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import TrainState, init_state

EXAMPLES, BATCH, WORDS, RATE = 1024, 8, ("ba", "ce", "di", "fo", "gu"), 16_000


class Noise:
    """Clips of 0.2 to 2 s that cost nothing to read."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.num_samples: HostArray = rng.integers(RATE // 5, 2 * RATE, EXAMPLES)
        self._noise = rng.standard_normal(2 * RATE, np.float32)
        self.ids = [str(number) for number in range(EXAMPLES)]
        self.texts = [" ".join(rng.choice(WORDS, int(rng.integers(1, 9)))) for _ in self.ids]
        self.tasks = [""] * EXAMPLES
        self.transcripts: list[str | None] = [None] * EXAMPLES
        self.document_ids = self.ids
        self.weights: HostArray | None = None

    def __len__(self) -> int:
        return EXAMPLES

    def clip(self, index: int) -> HostArray:
        return self._noise[: self.num_samples[index]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), args.repeats)
    target = "2 ms a step that the loop adds, with batches made before; nothing compiled again"
    record("host_overhead", {"target": target, "figures": figures})
    print(figures)


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    files = make_tokenizer([*WORDS, " "])
    size = len(json.loads(files["tokenizer.json"])["model"]["vocab"])
    text = initial_tower(text_config(size, width=32), 0)
    save_text_tower(folder / "text", text, files)
    tokenizer = TextTokenizer(folder / "text", max_tokens=64)
    rngs = nnx.Rngs(0)
    speech = HubertEncoder(speech_config(width=32, num_layers=2), rngs=rngs)
    towers = param_tree.freeze(speech), param_tree.freeze(text)
    model = LateFusion(*towers, config=LateFusionConfig(), rngs=rngs)
    source = BatchSource(
        Noise(),
        tokenizer,
        BatchConfig(batch_size=BATCH, num_buckets=4),
        seed=0,
        transform=ClipTransform(prepare=normalize_clip, min_samples=model.min_samples),
    )
    split, place = param_tree.split(model), Devices("pmap", jax.devices()[:1])
    steps, dims = source.plan.batches_per_epoch, (32, 16, 8)
    optimizer = make_optimizer(OptimConfig(), steps)
    step = place.compile(
        make_train_step(split.rebuild, optimizer, LossConfig(dims=dims), axis_name=place.axis_name)
    )
    frozen = place.replicate(split.frozen)
    host: list[Any] = []
    device: list[Any] = []
    epoch = 0

    def go_on() -> None:
        """To the next epoch: other batches of the same shapes."""
        nonlocal epoch, host, device
        host = [source[epoch * steps + number] for number in range(steps)]
        device = [place.put_batch(batch) for batch in host]
        epoch += 1

    def fresh() -> TrainState:
        return place.replicate(init_state(split.trained, optimizer))

    def alone() -> None:
        state = fresh()
        for batch in device:
            state, _ = step(state, frozen, batch)
        jax.block_until_ready(state)

    def loop(batches: Callable[[int], Generator[Any, None, None]]) -> Any:
        with (
            tempfile.TemporaryDirectory(dir=folder) as workdir,
            RunCheckpoints(Path(workdir) / "checkpoints", keep_last=1, keep_best=1) as kept,
        ):
            begun = time.perf_counter()
            prepared = Prepared(
                weights=lambda: split.trained,
                frozen=frozen,
                make_step=make_train_step,
                batches=batches,
                steps=steps,
                identity={},
                data_digest="",
                dims=dims,
                data="noise",
            )
            run_loop(
                fresh(),
                prepared,
                lambda state, batch: step(state, frozen, place.put_batch(batch)),
                batch_size=BATCH,
                learning_rate=lambda _: 1e-3,
                config=LoopConfig(checkpoint_every=0),
                checkpoints=kept,
                workdir=Path(workdir),
            )
            return time.perf_counter() - begun

    def made_before(_: int) -> Generator[Any, None, None]:
        yield from host

    def by_grain(start: int) -> Generator[Any, None, None]:
        return read_batches(source, start=epoch * steps + start, config=BatchConfig())

    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(str(details.get("fun_name")))

    go_on()  # The first epoch: every shape is compiled.
    alone()
    loop(made_before)
    jax.monitoring.register_event_duration_secs_listener(listen)
    seconds: dict[str, list[float]] = {"step alone": [], "loop": [], "loop, grain": []}
    for _ in range(repeats):
        go_on()
        begun = time.perf_counter()
        alone()
        seconds["step alone"].append(time.perf_counter() - begun)
        seconds["loop"].append(loop(made_before))
        seconds["loop, grain"].append(loop(by_grain))
    milliseconds = {name: [1e3 * s / steps for s in times] for name, times in seconds.items()}
    base = statistics.median(milliseconds["step alone"])
    return {
        "steps": steps,
        "shapes": len({batch.samples.shape + batch.document.shape for batch in host}),
        "milliseconds_a_step": {name: summarize(times) for name, times in milliseconds.items()},
        "added": {
            name: statistics.median(times) - base
            for name, times in milliseconds.items()
            if name != "step alone"
        },
        "compiled_again": compiled,
    }


if __name__ == "__main__":
    main()
