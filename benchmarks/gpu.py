"""One part of benchmarks/gpu.sh.

    python benchmarks/gpu.py PART [--toy]

Parts: {parts}; `record` writes results/gpu_CARD.json (gpu_h100.json, say) from what they appended
to $OUT/gpu.jsonl, on the same machine, and a copy beside that file.
"""

import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common import RESULTS, record
from gpu_parts import card

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import existing_file

TARGET = (
    "compiled PyTorch's time over ours at least 1.3, utilisation 0.45 or more, four dims at most "
    "1.2 times one"
)
PARTS = ("attention", "step", "pytorch", "loss", "large")


def main(argv: Sequence[str]) -> int:
    description = (__doc__ or "").format(parts=", ".join(PARTS))
    parser = CommandParser(prog="python benchmarks/gpu.py", description=description)
    parser.add_argument("part", choices=(*PARTS, "record"))
    parser.add_argument("--toy", action="store_true", help="toy sizes: does it run?")
    args = parser.parse_args(argv)
    log = Path(os.environ.get("OUT", "benchmarks/results")) / "gpu.jsonl"
    if args.part == "record":
        lines = existing_file(log, hint="run the parts first: bash benchmarks/gpu.sh")
        figures = [{**json.loads(line), "run": 1} for line in lines.read_text().splitlines()]
        device = next((x["device"] for x in figures if "device" in x), "unknown")
        result = {
            "command": "bash benchmarks/gpu.sh",
            "device": device,
            "target": TARGET,
            "runs": {"1": "this command"},
            "figures": figures,
        }
        if not args.toy:
            name = f"gpu_{card(device)}"
            record(name, result)
            if log.parent.resolve() != RESULTS.resolve():
                shutil.copy(RESULTS / f"{name}.json", log.parent)
        return 0
    begun = time.perf_counter()
    with log.open("a") as file:
        module = importlib.import_module(f"gpu_parts.{args.part}")
        for name, figures in module.measure(toy=args.toy):
            at = round(time.perf_counter() - begun, 1)
            line = json.dumps({"part": args.part, "name": name, "at": at, **figures})
            print(line)
            print(line, file=file, flush=True)  # On disk before the next measurement begins.
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
