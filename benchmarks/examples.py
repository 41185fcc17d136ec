"""Reports of this project's own runs, small enough to be kept: docs/examples/.

python benchmarks/examples.py demo     after `make demo`
python benchmarks/examples.py digits   after `python -m mrl_jax.demo.spoken_digits`

Each also compares the systems (`python -m mrl_jax.demo.compare`), which trains what is missing.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
RUNS = {"demo": Path("demo"), "digits": Path("runs/spoken_digits/known")}
KEPT_FILES = ("*.md", "*.png")
RECORDS = "results.jsonl"
"""Kept of one report, to show what they look like; every report has them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=RUNS)
    args = parser.parse_args()
    run_folder = RUNS[args.what]
    model = run_folder / "model"
    data = run_folder / ("world/test" if args.what == "demo" else "test")
    with tempfile.TemporaryDirectory() as folder:
        # What spectrum then shows beside the plain prefixes.
        run(
            "-m",
            "mrl_jax.evaluation.spectrum.fit_rotation",
            "--model",
            model,
            "--data",
            model / "data",
            "--overwrite",
        )
        for command in ("retrieval", "spectrum", "tradeoff", "robustness"):
            out = Path(folder) / command
            run("eval.py", command, "--model", model, "--data", data, "--out", out)
            patterns = (*KEPT_FILES, RECORDS) if command == "retrieval" else KEPT_FILES
            keep(out, EXAMPLES / args.what / command, patterns)
    run("-m", "mrl_jax.demo.compare", args.what)
    keep(run_folder / "compare", EXAMPLES / args.what / "compare", KEPT_FILES)


def run(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True, cwd=ROOT)


def keep(report: Path, out: Path, patterns: Sequence[str]) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in sorted(report.iterdir()):
        if any(file.match(pattern) for pattern in patterns):
            shutil.copyfile(file, out / file.name)


if __name__ == "__main__":
    main()
