"""Planted faults: how many of them curation finds, and what else it drops.

    python benchmarks/curation_faults.py --demo DEMO --data DATA --claims CLAIMS

DEMO is the folder that `mrl-jax demo` made, DATA that of the data sets (mboshi, ntrex, asterisk),
CLAIMS that of `python benchmarks/claims.py`, with the recogniser of Mboshi. A run that was
stopped goes on.

Of the training rows a tenth trade texts and transcripts, 5 % are there twice, 5 % have a text in
another language, 5 % are in white noise of 0 dB; 5 % of the held-out rows are in training. No row
has two faults. Each fault has the stage that is to find it: recall counts its rows that any stage
dropped, precision the rows of that stage that have the fault.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from common import record
from curation_worlds import World, curation, demo_world, faulty, mboshi_world
from planted_faults import count

from mrl_jax.core.paths import user_path
from mrl_jax.curation.run import curate

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("demo", "data", "claims"):
        parser.add_argument(f"--{name}", type=user_path, required=True)
    parser.add_argument("--out", type=user_path, default=ROOT / "runs" / "curation_faults")
    parser.add_argument("--world", choices=("demo", "mboshi"), help="default: both")
    parser.add_argument("--mboshi-rows", type=int, help="of its training; default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    makers = {
        "demo": lambda: demo_world(args.demo),
        "mboshi": lambda: mboshi_world(args.data, args.claims, args.mboshi_rows),
    }
    results = args.out / "results.json"
    figures: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    for name in [args.world] if args.world else list(makers):
        figures[name] = measure(makers[name](), args.data, args.out / name, args.seed)
        print(json.dumps(figures[name], indent=1))
        results.write_text(json.dumps(figures))
    record(
        "curation_faults",
        {
            "target": "recall and precision of each kind of at least 0.95 in the demo's world",
            "figures": figures,
        },
    )


def measure(world: World, data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Plant, curate and count."""
    if not (folder / "kinds.json").is_file():
        faulty(world, data, folder, seed)
    kinds = json.loads((folder / "kinds.json").read_text(encoding="utf-8"))
    begun = time.perf_counter()
    run = curate(curation(world, folder, data), folder / "curated")
    seconds = {stage.name: round(stage.seconds, 1) for stage in run.stages}
    return {
        "rows": len(run.rows),
        "hours": round(sum(row.seconds or 0 for row in run.rows) / 3600, 2),
        "seconds": round(time.perf_counter() - begun, 1),
        "stage_seconds": seconds,
        **count(run.rows, kinds),
    }


if __name__ == "__main__":
    main()
