"""Full-size towers beside transformers: the same answer, and in what time.

    python benchmarks/towers.py [--rounds 3]

For each tower: a checkpoint of random weights is made, converted and verified layer
by layer in float32; then PyTorch (eval mode, no gradients, its default attention)
and ours run the same padded batch in processes of their own, in turn. Compile time
is that of the first call less a later one, with layers scanned and unrolled.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import FAMILIES, published_config, record, summarize, timed

RUNS = 4
"""Timed calls in each process, after one that warms up."""
TEXTS, TOKENS = 8, 128
CLIPS, SAMPLES = 2, 160_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tower", choices=tuple(FAMILIES), help="one alone, which is not recorded")
    parser.add_argument("--worker", nargs=3, metavar=("SIDE", "TOWER", "FOLDER"))
    args = parser.parse_args()
    if args.worker:
        side, tower, folder = args.worker
        worker = {"torch": run_torch, "scanned": run_ours, "unrolled": run_ours}[side]
        print(json.dumps(worker(FAMILIES[tower], Path(folder), side)))
        return
    if args.tower:
        with tempfile.TemporaryDirectory() as scratch:
            measure(args.tower, Path(scratch), args.rounds)
        return
    with tempfile.TemporaryDirectory() as scratch:
        figures = {tower: measure(tower, Path(scratch), args.rounds) for tower in FAMILIES}
    record(
        "towers",
        {
            "inputs": {
                "qwen3": f"{TEXTS} texts of {TOKENS} tokens, one of them half padding",
                "speech": f"{CLIPS} clips of {SAMPLES / 16000:g} s, one of them half padding",
                "dtype": "float32",
            },
            "figures": figures,
            "target": "errors at most 1e-5; torch / ours at least 1",
        },
    )


def measure(tower: str, scratch: Path, rounds: int) -> dict[str, Any]:
    """Parity and times of one tower."""
    family, config = FAMILIES[tower], published_config(tower)
    config_file, source, out = (scratch / f"{tower}{end}" for end in (".json", "-source", ""))
    config_file.write_text(json.dumps(config))
    _converters("random-init", family, config_file, source)
    _converters(family, source, out)
    _converters("verify", out, source)
    certificate = json.loads((out / "verification.json").read_text())
    worst = max(certificate["errors"].values())
    print(f"{tower}: largest relative error {worst:.1e} over {len(certificate['errors'])} states")

    seconds: dict[str, list[float]] = {"torch": [], "scanned": []}
    compile_seconds: dict[str, float] = {}
    for _ in range(rounds):
        for side, folder in (("torch", source), ("scanned", out)):
            result = _worker(side, tower, folder)
            seconds[side] += result["seconds"]
            compile_seconds.setdefault(side, result["compile"])
    unrolled = _worker("unrolled", tower, out)
    figures: dict[str, Any] = {
        "errors": certificate["errors"],
        "largest_error": worst,
        "torch": summarize(seconds["torch"]),
        "ours": summarize(seconds["scanned"]),
        "ours_unrolled": summarize(unrolled["seconds"]),
        "compile_scanned": compile_seconds["scanned"],
        "compile_unrolled": unrolled["compile"],
    }
    figures["torch_over_ours"] = figures["torch"]["median"] / figures["ours"]["median"]
    print(
        f"{tower}: torch {figures['torch']['median']:.2f} s, "
        f"ours {figures['ours']['median']:.2f} s, "
        f"ratio {figures['torch_over_ours']:.2f}; compile {figures['compile_scanned']:.1f} s "
        f"scanned, {figures['compile_unrolled']:.1f} s unrolled"
    )
    return figures


def run_torch(family: str, folder: Path, side: str) -> dict[str, Any]:
    """First and later calls of transformers' own model."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind = transformers.AutoModel
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    inputs, mask = (torch.from_numpy(array) for array in _batch(family))
    options = {"output_hidden_states": True} if family == "speech" else {}

    def call() -> None:
        with torch.inference_mode():
            model(inputs, attention_mask=mask, **options)

    return _time(call)


def run_ours(family: str, folder: Path, side: str) -> dict[str, Any]:
    """First and later calls of our module, jitted."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import mrl_jax

    load = mrl_jax.load_qwen3 if family == "qwen3" else mrl_jax.load_hubert
    graphdef, state = nnx.split(load(folder, unroll=side == "unrolled"))
    inputs, mask = _batch(family)
    if family == "qwen3":
        arguments = jnp.asarray(inputs, jnp.int32), jnp.asarray(mask, bool)
    else:
        arguments = jnp.asarray(inputs), jnp.asarray(mask.sum(axis=1), jnp.int32)
    step = jax.jit(lambda state, *arguments: nnx.merge(graphdef, state)(*arguments))
    return _time(lambda: jax.block_until_ready(step(state, *arguments)))


def _batch(family: str) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    if family == "qwen3":
        inputs: Any = rng.integers(0, 151669, (TEXTS, TOKENS))
    else:
        inputs = rng.standard_normal((CLIPS, SAMPLES), dtype=np.float32)
    mask = np.ones(inputs.shape, np.int64)
    mask[0, inputs.shape[1] // 2 :] = 0
    return inputs, mask


def _time(call: Any) -> dict[str, Any]:
    first = timed(call)
    seconds = [timed(call) for _ in range(RUNS)]
    return {"seconds": seconds, "compile": first - min(seconds)}


def _worker(side: str, tower: str, folder: Path) -> dict[str, Any]:
    time.sleep(1)  # Let the other side's threads go.
    command = [sys.executable, __file__, "--worker", side, tower, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _converters(*arguments: Any) -> None:
    command = [sys.executable, "-m", "converters", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
