"""It pays: heads trained on the clean, the faulty and the curated training set of the demo.

    python benchmarks/curation_pays.py --demo DEMO --faults OUT

OUT is the folder of `python benchmarks/curation_faults.py --world demo`. The dual encoder of the
demo is trained for the same number of steps of 64 pairs on each set, with three seeds, from frozen
states that are computed once (so without augmentation), and scored on the demo's test. A training
that is there already is kept.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import record

from mrl_jax.core.paths import user_path
from mrl_jax.training.metrics_log import METRICS_FILE, read_metrics

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
STEPS = 400
METRIC = "ndcg@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=user_path, required=True)
    parser.add_argument("--faults", type=user_path, required=True)
    parser.add_argument("--out", type=user_path, default=ROOT / "runs" / "curation_pays")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="default: %(default)s")
    args = parser.parse_args()
    faults = args.faults / "demo"
    tables = {
        "clean": faults / "clean.jsonl",
        "faulty": faults / "faulty.jsonl",
        "curated": faults / "curated" / "manifest-train.jsonl",
    }
    scores: dict[str, list[float]] = {name: [] for name in tables}
    for seed in SEEDS[: args.seeds]:
        for name, table in tables.items():
            workdir = args.out / f"{name}-{seed}"
            if last_score(workdir) is None:
                train(args.demo, table, args.out, name, seed)
            score = last_score(workdir)
            assert score is not None
            scores[name].append(score)
    figures = summary(scores) | {
        "rows": {name: len(table.read_text().splitlines()) for name, table in tables.items()}
    }
    print(json.dumps(figures, indent=1))
    target = "curated at least 0.98 of clean, and clearly above faulty"
    record("curation_pays", {"target": target, "steps": STEPS, "figures": figures})


def train(demo: Path, table: Path, out: Path, name: str, seed: int) -> None:
    """Train one head in a process of its own."""
    command = [
        *(sys.executable, "-m", "mrl_jax.core.commands", "train"),
        *("--config", str(ROOT / "configs" / "demo_dual_encoder.py")),
        *("--workdir", str(out / f"{name}-{seed}")),
        f"model.speech_tower={demo / 'towers' / 'speech'}",
        f"model.text_tower={demo / 'towers' / 'text'}",
        f"data.train={table}",
        f"data.validation={demo / 'world' / 'test'}",
        f"data.document_cache={out / f'docs-{name}'}",
        f"data.speech_cache={out / f'speech-{name}'}",
        *("augment=none", "stretch=1.0", f"seed={seed}"),
        *(f"train.{key}={STEPS}" for key in ("steps", "validate_every", "checkpoint_every")),
    ]
    subprocess.run(command, check=True, cwd=ROOT)


def last_score(workdir: Path) -> float | None:
    """nDCG@10 of the last step; None where the training has not ended."""
    path = workdir / METRICS_FILE
    if not path.is_file():
        return None
    rows = [row for row in read_metrics(path) if row["kind"] == "validation"]
    return float(rows[-1][METRIC]) if rows and rows[-1]["step"] == STEPS else None


def summary(scores: dict[str, list[float]]) -> dict[str, Any]:
    """Means and deviations, and ratios to the clean set, seed by seed."""
    means = {name: statistics.mean(values) for name, values in scores.items()}
    ratios = {
        name: [a / b for a, b in zip(scores[name], scores["clean"], strict=True)]
        for name in ("curated", "faulty")
    }
    return {
        METRIC: {name: [round(x, 4) for x in values] for name, values in scores.items()},
        "mean": {name: round(mean, 4) for name, mean in means.items()},
        "deviation": {
            name: round(statistics.stdev(values), 4) if len(values) > 1 else None
            for name, values in scores.items()
        },
        "of_clean": {name: round(means[name] / means["clean"], 4) for name in ratios},
        "of_clean_by_seed": {name: [round(x, 4) for x in some] for name, some in ratios.items()},
    }


if __name__ == "__main__":
    main()
