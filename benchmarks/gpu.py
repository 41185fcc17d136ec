"""One part of benchmarks/gpu.sh.

    python benchmarks/gpu.py PART [--toy]

Parts: {parts}; `record` writes results/gpu.json from what they appended to $OUT/gpu.jsonl.
"""

import argparse
import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

from common import record

TARGET = (
    "compiled PyTorch's time over ours at least 1.3, utilisation 0.45 or more, four dims at most "
    "1.2 times one"
)
PARTS = ("attention", "step", "pytorch", "loss", "large")


def main() -> None:
    description = (__doc__ or "").format(parts=", ".join(PARTS))
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    parser.add_argument("part", choices=(*PARTS, "record"))
    parser.add_argument("--toy", action="store_true", help="toy sizes: does it run?")
    args = parser.parse_args()
    log = Path(os.environ.get("OUT", "benchmarks/results")) / "gpu.jsonl"
    if args.part == "record":
        figures = [{**json.loads(line), "run": 1} for line in log.read_text().splitlines()]
        devices = [x["device"] for x in figures if "device" in x]
        result = {
            "device": devices[0] if devices else "unknown",
            "target": TARGET,
            "runs": {"1": "this command"},
            "figures": figures,
        }
        if not args.toy:
            record("gpu", result)
        return
    begun = time.perf_counter()
    module = importlib.import_module(f"gpu_parts.{args.part}")
    for name, figures in module.measure(toy=args.toy):
        line = {"part": args.part, "name": name, "at": round(time.perf_counter() - begun, 1)}
        append(log, {**line, **figures})


def append(log: Path, result: dict[str, Any]) -> None:
    """One more line of the log, on disk before the next part begins."""
    line = json.dumps(result)
    with log.open("a") as file:
        file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
