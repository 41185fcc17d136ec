"""Reports of this project's own runs, small enough to be kept in docs/examples/.

    python benchmarks/examples.py demo     after `make demo`
    python benchmarks/examples.py digits   after `python -m mrl_jax.demo.spoken_digits`

Both names may be given at once. The systems are compared as well (`python -m
mrl_jax.demo.compare`), which trains those that are missing. A report names the commit of the
library, so the checkout has to be clean, and nothing is copied before all reports are written.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
RUNS = {"demo": Path("demo"), "digits": Path("runs/spoken_digits/known")}
TEST_SETS = {"demo": "world/test", "digits": "test"}
REPORTS = ("retrieval", "spectrum", "tradeoff", "robustness")
KEPT = ("*.md", "*.png")
RECORDS = ("retrieval", "compare")
"""Reports whose results.jsonl is kept too; every report writes one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=RUNS, metavar="demo|digits")
    args = parser.parse_args()
    git = ["git", "status", "--porcelain", "--untracked-files=no"]
    if subprocess.run(git, check=True, cwd=ROOT, capture_output=True).stdout:
        parser.error("the checkout has changes that are not committed, which reports would show")
    with tempfile.TemporaryDirectory() as folder:
        reports = [report for name in args.names for report in write_reports(name, Path(folder))]
        for report, out in reports:
            keep(report, out)


def write_reports(name: str, scratch: Path) -> list[tuple[Path, Path]]:
    """Every report of one run: the folder where it is, and the one where it is kept."""
    model, data = RUNS[name] / "model", RUNS[name] / TEST_SETS[name]
    # The spectrum report shows the rotated prefixes beside the plain ones.
    rotate = ("-m", "mrl_jax.evaluation.spectrum.fit_rotation")
    run(*rotate, "--model", model, "--data", model / "data", "--overwrite")
    for report in REPORTS:
        out = scratch / name / report
        run("eval.py", report, "--model", model, "--data", data, "--out", out)
    run("-m", "mrl_jax.demo.compare", name)
    folders = [scratch / name / report for report in REPORTS]
    folders.append(ROOT / RUNS[name] / "compare")
    return [(folder, EXAMPLES / name / folder.name) for folder in folders]


def run(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True, cwd=ROOT)


def keep(report: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    patterns = (*KEPT, "results.jsonl") if report.name in RECORDS else KEPT
    for file in sorted(report.iterdir()):
        if any(file.match(pattern) for pattern in patterns):
            shutil.copyfile(file, out / file.name)


if __name__ == "__main__":
    main()
