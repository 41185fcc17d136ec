"""HuBERT-base over long clips: peak memory, seconds, and the error against the plain form.

    python benchmarks/long_audio.py [--minutes 1 4 12 60] [--plain-minutes 4] [--whole-minutes 12]

Random weights at the published size (95 M), float32, one clip of noise; every row is a process of
its own, so that its peak memory is its own. The plain form, whose memory grows with the square of
the length, runs up to `--plain-minutes`. Above `--whole-minutes` one layer of the twelve is run,
which takes the same memory as all, and the seconds are those of the front end and of twelve such
layers. `--memory` runs one minute of speech in a clip that is padded to its length, for which all
arrays are as large and hardly anything is computed: the peak memory alone, within minutes.
`--platform gpu` measures on an accelerator, in float32 and bfloat16; `--toy` runs seconds of a
small tower, to see that everything works, and records nothing.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import record, timed

RATE = 16_000
TOY_MINUTES = (0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 4, 12, 60])
    parser.add_argument("--plain-minutes", type=float, default=4, help="run the plain form up to")
    parser.add_argument("--whole-minutes", type=float, default=12, help="run all layers up to")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--limit", type=float, default=None, help="seconds that a row may take")
    parser.add_argument("--out", type=Path, help="a file of JSON lines instead of the record")
    parser.add_argument("--memory", action="store_true", help="measure peak memory alone")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(run(**json.loads(args.worker))))
        return
    minutes = TOY_MINUTES if args.toy else args.minutes
    dtypes = ("float32",) if args.platform == "cpu" else ("float32", "bfloat16")
    rows = []
    for dtype in dtypes:
        for one in minutes:
            rows.append(measure(one, dtype, args))
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if args.toy or args.memory or args.out:
        return
    record(
        f"long_audio{'' if args.platform == 'cpu' else '_gpu'}",
        {
            "tower": "HuBERT-base, 95 M random weights",
            "figures": rows,
            "target": "an hour within 6 GB on a CPU; errors at most 1e-5 in float32",
        },
    )


def measure(minutes: float, dtype: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row: in blocks, and plainly where that fits."""
    whole = args.toy or args.memory or minutes <= args.whole_minutes
    options = {"minutes": minutes, "dtype": dtype, "toy": args.toy, "whole": whole}
    options["memory"] = args.memory
    row: dict[str, Any] = {"minutes": minutes, "dtype": dtype, "whole": whole}
    with tempfile.TemporaryDirectory() as scratch:
        sides = ["blocks"]
        if whole and not args.memory and (args.toy or minutes <= args.plain_minutes):
            sides.append("plain")
        for side in sides:
            row[side] = _worker({**options, "side": side, "out": f"{scratch}/{side}.npy"}, args)
        if all("seconds" in row.get(side, {}) for side in ("blocks", "plain")):
            import numpy as np

            ours, plain = (np.load(f"{scratch}/{side}.npy") for side in ("blocks", "plain"))
            row["error"] = float(np.linalg.norm(ours - plain) / np.linalg.norm(plain))
    return row


def _worker(options: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", json.dumps(options)]
    platforms = {"cpu": "cpu", "gpu": "cuda"}
    environment = {**os.environ, "JAX_PLATFORMS": platforms[args.platform]}
    if args.platform == "gpu":
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # Otherwise TF32.
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=args.limit
        )
    except subprocess.TimeoutExpired:
        return {"stopped": f"not done after {args.limit:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"stopped": lines[-1][:200] if lines else f"status {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(
    minutes: float, dtype: str, side: str, out: str, *, toy: bool, whole: bool, memory: bool
) -> dict[str, Any]:
    """What one process measures: one clip through a tower, in blocks or plainly."""
    import resource

    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from mrl_jax.models import hubert, long_audio
    from mrl_jax.nn.block_attention import BLOCK

    config = hubert.HubertConfig.base()
    if toy:
        small = {"width": 32, "num_layers": 2, "num_heads": 2, "mlp_width": 48}
        config = dataclasses.replace(config, **small, conv_channels=(8,) * 7)
    layers = config.num_layers
    if not whole:
        config = dataclasses.replace(config, num_layers=1)
    tower = hubert.HubertEncoder(config, dtype=dtype, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(tower)
    size = 64 if toy else BLOCK
    rng = np.random.default_rng(0)
    # Whole blocks of frames, as inference pads clips.
    blocks = -(-config.frame_count(int(minutes * 60 * RATE)) // size)
    samples = rng.standard_normal((1, (blocks * size - 1) * 320 + 400), np.float32)
    lengths = np.array([(1 if memory else minutes) * 60 * RATE], np.int32)
    samples[0, lengths[0] :] = 0

    def encode(state: Any, samples: Any, lengths: Any) -> Any:
        tower = nnx.merge(graphdef, state)
        if side == "blocks":
            return tower.in_blocks(samples, lengths, size=size).last_hidden
        hubert.blocks_pay = lambda frames: False
        return tower(samples, lengths).last_hidden

    def front(state: Any, samples: Any, lengths: Any) -> Any:
        tower = nnx.merge(graphdef, state)
        frames = config.frame_count(lengths)
        x = long_audio.features_in_blocks(tower, jnp.asarray(samples, dtype), lengths, frames, size)
        return jnp.sum(long_audio.add_positions(tower, x, frames).astype(jnp.float32))

    def compiled(function: Any) -> Any:
        return jax.jit(function).lower(state, samples, lengths).compile()

    start = time.perf_counter()
    program = compiled(encode)
    compile_seconds = time.perf_counter() - start
    outputs: list[Any] = []
    result: dict[str, Any] = {}
    call = lambda: outputs.append(jax.block_until_ready(program(state, samples, lengths)))  # noqa: E731
    before = time.process_time()
    seconds = timed(call)
    result["cpu_seconds"] = time.process_time() - before
    if minutes <= 1 or jax.default_backend() != "cpu":
        seconds = min(seconds, timed(call))
    if not whole:
        only_front = compiled(front)
        result["front_seconds"] = timed(
            lambda: jax.block_until_ready(only_front(state, samples, lengths))
        )
        result["layer_seconds"] = seconds - result["front_seconds"]
        seconds = result["front_seconds"] + layers * result["layer_seconds"]
        result["cpu_seconds"] *= seconds / (result["front_seconds"] + result["layer_seconds"])
    result |= {"seconds": seconds, "compile": compile_seconds}
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        result["device"] = device.device_kind
        result["peak_bytes"] = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    frames = int(config.frame_count(int(lengths[0])))
    np.save(out, np.asarray(outputs[-1][:, :frames].astype(jnp.float32)))
    return result


if __name__ == "__main__":
    main()
