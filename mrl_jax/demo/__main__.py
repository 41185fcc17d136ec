"""The offline demo: spoken Wolof phrases retrieve their French translations.

A grammar makes the phrases and espeak-ng speaks them; the two towers are small, of the
published architectures, and come with the library. The steps are those of a real run:
convert, build the data set, train the head, evaluate. No test sentence and no test voice
is in the training data. The head, of soft tokens, is exported untrained; the published one is
trained by `mrl-jax train --config demo_linear`.
"""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import local_path
from mrl_jax.demo.commands import run_mrl_jax
from mrl_jax.demo.world import MARKER, write_world

TOWERS = Path(__file__).parent / "towers_hf"
ADDRESS = "http://localhost:8000/"
"""Where `mrl-jax serve` has its page."""
SHOWN = 4
"""Test queries that are printed with their first results."""


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="mrl-jax demo", description=__doc__)
    parser.add_argument(
        "--out", type=local_path("--out"), default=Path("demo"), help="default: ./demo"
    )
    out: Path = parser.parse_args(argv).out
    if out.exists() and not out.is_dir():
        raise MrlError("is a file, expected a folder", where=out, hint="choose another --out")
    begun = time.monotonic()
    world = out / "world"
    if not (world / MARKER).is_file():
        print(f"Synthesising the demo's recordings into {world}", flush=True)
        write_world(world)
    for family, name in (("hubert", "speech"), ("qwen3", "text")):
        tower = out / "towers" / name
        run_mrl_jax("convert", family, TOWERS / name, tower, "--overwrite")
    model, report = out / "model", out / "report"
    if (model / "experiment.json").is_file():
        shutil.rmtree(model)  # An earlier demo's.
    run_mrl_jax(
        "train",
        *("--config", "demo", "--workdir", model),
        f"model.speech_tower={out / 'towers' / 'speech'}",
        f"model.text_tower={out / 'towers' / 'text'}",
        f"data.train={world / 'train.jsonl'}",
        f"data.validation={world / 'validation'}",
    )
    test = world / "test"
    run_mrl_jax(
        *("eval", "retrieval"),
        *("--model", model, "--data", test, "--out", report, "--overwrite"),
    )
    run_mrl_jax(
        *("eval", "intent", "--features", "pooled+tokens"),
        *("--model", model, "--data", world / "intents"),
        *("--out", out / "intents", "--overwrite"),
    )
    index = out / "index"
    run_mrl_jax(
        *("index", "build", "--model", model, "--corpus", test / "corpus.jsonl"),
        *("--out", index, "--overwrite"),
    )
    _draw_training(model, report)
    _show_queries(test, report)
    seconds = time.monotonic() - begun
    print(f"\nReports with figures: {report} and {out / 'intents'} ({seconds:.0f} s in all)")
    print(f"Ask aloud: `mrl-jax serve {index}` (the extra serve), then {ADDRESS} in a browser")
    return 0


def _draw_training(model: Path, report: Path) -> None:
    from mrl_jax.evaluation.report.plotting import plot_training
    from mrl_jax.training.metrics_log import METRICS_FILE, read_metrics

    metrics = read_metrics(model / METRICS_FILE)
    if not any(row["kind"] == "train" for row in metrics):
        return  # Soft tokens need no training.
    plot_training(report / "training.png", metrics)
    with (report / "report.md").open("a", encoding="utf-8") as file:
        file.write("\n![training](training.png)\n")


def _show_queries(test: Path, report: Path) -> None:
    """Print transcripts and the first three results of every n-th test query."""
    corpus = {row["_id"]: row["text"] for row in _lines(test / "corpus.jsonl")}
    rankings = _lines(report / "rankings.jsonl")
    print("\nTranscripts of some spoken test queries, and their first three results:")
    for row in rankings[:: max(len(rankings) // SHOWN, 1)][:SHOWN]:
        print(f"\n  « {row['transcript']} »")
        for rank, result in enumerate(row["top"][:3], 1):
            mark = "*" if row["relevant"].get(result["id"]) else " "
            print(f"   {mark} {rank}. {corpus[result['id']]}  ({result['score']:.2f})")
    print("\n  * the relevant document")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(run_command(main))
