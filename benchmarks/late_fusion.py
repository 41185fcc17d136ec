"""Quality of the demo and of the spoken digits, as records.

python benchmarks/late_fusion.py demo          runs `make demo`'s own command first
python benchmarks/late_fusion.py digits        runs every fold of the spoken digits first
python benchmarks/late_fusion.py demo --from demo      only records a finished run
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import record

from mrl_jax.core.paths import user_path
from mrl_jax.training.metrics_log import METRICS_FILE, read_metrics

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("demo", "digits"))
    parser.add_argument("--from", type=user_path, dest="folder", help="folder of a finished run")
    args = parser.parse_args()
    (demo if args.what == "demo" else digits)(args.folder)


def demo(folder: Path | None) -> None:
    seconds = None
    if folder is None:
        folder, begun = ROOT / "demo", time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "mrl_jax.demo"], check=True, cwd=ROOT)
        seconds = time.perf_counter() - begun
    rows = [row for row in read_metrics(folder / "model" / METRICS_FILE) if row["kind"] == "train"]
    record(
        "demo",
        {
            "target": "nDCG@10 at full width of 0.80 or more, in at most six minutes",
            "seconds": seconds,
            "steps": len(rows),
            "figures": scores(folder / "report" / "results.jsonl"),
        },
    )


def digits(folder: Path | None) -> None:
    if folder is None:
        folder = ROOT / "runs" / "spoken_digits"
        command = [sys.executable, "-m", "mrl_jax.demo.spoken_digits", "--out", str(folder)]
        subprocess.run(command, check=True, cwd=ROOT)
        subprocess.run([*command, "--leave-out", "all"], check=True, cwd=ROOT)
    folds = {
        path.parent.parent.name: scores(path)
        for path in sorted(folder.glob("*/report/results.jsonl"))
    }
    record(
        "spoken_digits",
        {
            "target": "nDCG@10 at full width of 0.80 for known speakers, 0.45 for speakers left "
            "out in turn",
            "figures": folds,
        },
    )


def scores(path: Path) -> dict[str, Any]:
    """nDCG@10 by dimension, that of chance, and the numbers of queries and documents."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_metric = {(row["metric"], row["dim"]): row for row in rows}
    first = rows[0]
    return {
        "queries": first["queries"],
        "documents": first["documents"],
        "chance": by_metric["ndcg@10 of chance", None]["value"],
        "ndcg@10": {
            str(dim): row["value"]
            for (metric, dim), row in by_metric.items()
            if metric == "ndcg@10"
        },
    }


if __name__ == "__main__":
    main()
