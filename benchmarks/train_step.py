"""One training step of late fusion at full size, beside the same step in PyTorch.

    python benchmarks/train_step.py [--rounds 2] [--seconds 4 --batch 4 --tokens 32] [--bf16]
        [--processor NAME]      recorded beside the results of other processors
    bash benchmarks/gpu.sh              for a GPU

The step is that of late_fusion_step.py; PyTorch runs it eager, with --compile also compiled.
Each side runs in processes of its own, in turn; peak memory is that of the process from the first
step on: drawing random weights takes more.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import forget_peak, record, resident_bytes, summarize, timed
from late_fusion_step import OurSide, Sizes, TorchSide, flops

OURS = {"ours": "", "stored": "documents", "both": "both"}
"""Our sides: the whole step; with cached document vectors; with cached speech states too."""
RUNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--bf16", action="store_true", help="towers in bfloat16, on both sides")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a third rival")
    parser.add_argument("--processor", help="name in the result's file")
    parser.add_argument("--worker", choices=("torch", "compiled", *OURS))
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(run(args)))
        return
    sides = ["torch", *(["compiled"] if args.compile else []), *OURS]
    timings: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side in sides:
            timings[side].append(worker(side, args))
            print(side, timings[side][-1], flush=True)
    figures: dict[str, Any] = {
        side: {
            **summarize([second for one in runs for second in one["seconds"]]),
            "first_call": runs[0]["first_call"],
            "peak_bytes": max(one["peak_bytes"] for one in runs),
            "loss": runs[0]["loss"],
        }
        for side, runs in timings.items()
    }
    for side in sides[1:]:
        figures[f"torch_over_{side}"] = figures["torch"]["median"] / figures[side]["median"]
    device = timings["ours"][0]["device"]
    result = {
        "device": device,
        "memory": "from the first step on",
        "target": "PyTorch's time over ours at least 1.1, and 1.5 with both caches; memory no "
        "higher",
        "inputs": {
            "clips": args.batch,
            "seconds": args.seconds,
            "document_tokens": args.tokens,
            "dtype": "bfloat16" if args.bf16 else "float32",
            "dims": sizes_of(args).dims,
        },
        "flops_by_formula": flops(sizes_of(args)),
        "figures": figures,
    }
    parts = ["train_step", *(["bf16"] if args.bf16 else [])]
    record("_".join([*parts, *([args.processor] if args.processor else [])]), result)
    print(json.dumps(figures, indent=1))


def sizes_of(args: argparse.Namespace) -> Sizes:
    return Sizes(batch=args.batch, seconds=args.seconds, tokens=args.tokens, bf16=args.bf16)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """First and later calls of one side."""
    side: Any = (OurSide if args.worker in OURS else TorchSide)(sizes_of(args))
    begun = time.perf_counter()
    # Ours is compiled when it is made, PyTorch's in its first call.
    if args.worker in OURS:
        step: Callable[[], float] = side.step(cached=OURS[args.worker])[0]
    else:
        step = side.step(compiled=args.worker == "compiled")
    forget_peak()
    losses = [step()]
    took = time.perf_counter() - begun
    seconds = [timed(lambda: losses.append(step())) for _ in range(RUNS)]
    return {
        "device": side.device,
        "seconds": seconds,
        "first_call": took,
        "loss": losses[0],
        "peak_bytes": resident_bytes("VmHWM"),
    }


def worker(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own."""
    time.sleep(1)  # Let the other side's threads go.
    command = [sys.executable, str(Path(__file__)), "--worker", side]
    for name in ("batch", "seconds", "tokens"):
        command += [f"--{name}", str(getattr(args, name))]
    command += [f"--{name}" for name in ("bf16",) if getattr(args, name)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
