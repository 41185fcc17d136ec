"""Measure a trained model: `python eval.py COMMAND --model DIR --data DIR`.

Or several side by side, pipelines of recogniser, translator and text tower among them:
`python eval.py compare --models NAME=DIR NAME=DIR --data DIR --out DIR`.
Or a recogniser alone: `python eval.py transcribe --model DIR --data DIR --out DIR`.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError

# Command: the module of `report_COMMAND`, and what it tells.
COMMANDS = {
    "retrieval": (
        "mrl_jax.evaluation.retrieval.report",
        "How good, and how sure: nDCG, MRR, MAP, recall and hit rate of speech (or text) "
        "queries at every dimension, from one encoding, with intervals and paired tests.",
    ),
    "intent": (
        "mrl_jax.evaluation.intent.report",
        "Accuracy and F1 of intents at every dimension: the nearest label text, and a classifier "
        "of a few examples.",
    ),
    "spectrum": (
        "mrl_jax.evaluation.spectrum.report",
        "How much of the vector is used: singular values, ranks, nDCG against rank and against "
        "prefix with controls, the gap between speech and text.",
    ),
    "tradeoff": (
        "mrl_jax.evaluation.tradeoff.report",
        "At what cost: dimension, precision and funnel search against bytes, work and time; "
        "--budget picks a setting and writes it into the model folder.",
    ),
    "compare": (
        "mrl_jax.evaluation.compare.report",
        "Any number of trained systems and pipelines on one set, from one encoding each: nDCG at "
        "every dimension with intervals, paired tests between systems, parameters, time and work "
        "of a query; of a pipeline each stage's output, and what its recogniser's errors cost.",
    ),
    "transcribe": (
        "mrl_jax.evaluation.transcribe.report",
        "A recogniser's word and character error rates with intervals, and its transcripts.",
    ),
    "robustness": (
        "mrl_jax.evaluation.robustness.report",
        "nDCG against noise, reverberation, telephone band, speed and clip length.",
    ),
}


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python eval.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_options(command, name)
    options = vars(parser.parse_args(argv))
    name, data, out = (options.pop(key) for key in ("command", "data", "out"))
    model = options.pop("models" if name == "compare" else "model")
    from mrl_jax.core.compilation_cache import keep_compiled

    keep_compiled()
    report = importlib.import_module(COMMANDS[name][0])
    data = Path(data) if Path(data).exists() else data
    out = out or model / default_name(name, str(data))
    print(getattr(report, f"report_{name}")(model, data, out, **options))
    print(f"report: {out / 'report.md'}, with pictures: {out / 'report.html'}")
    return 0


def add_options(command: argparse.ArgumentParser, name: str) -> None:
    """Those that all commands have, and those of one; each is an argument of its function."""
    add: Callable[..., Any] = command.add_argument
    if name == "compare":
        text = "trained models or pipelines: NAME=DIR, or DIR for one called as its folder"
        add("--models", "--model", nargs="+", action="extend", required=True, help=text)
    else:
        what = (
            "tower folder of a recogniser" if name == "transcribe" else "folder of a trained model"
        )
        add("--model", type=Path, required=True, help=what)
    text = ", a manifest or a built data set" if name == "transcribe" else ""
    add("--data", required=True, help=f"folder of a set, or its name: fleurs:wo-fr{text}")
    elsewhere = name in ("compare", "transcribe")  # Not beside a model.
    text = "" if elsewhere else f"; default: MODEL/{default_name(name, 'DATA')}"
    add("--out", type=Path, required=elsewhere, help=f"report folder{text}")
    add("--overwrite", action="store_true", help="replace an earlier report")
    if name not in ("transcribe", "intent"):
        add("--task", help="ask every query as one of the model's tasks; default: as the set says")
        add("--prompt", help="or put this before every query, word for word")
    if name != "transcribe":
        add("--dims", type=numbers("--dims"), help="comma-separated; default: those trained")
    if name == "retrieval":
        add("--ks", type=numbers("--ks"), default=(1, 5, 10), help="ranks to cut at: 1,5,10")
        text = "which of two equal scores is first: trec (descending id, default) or id (ascending)"
        add("--ties", choices=("trec", "id"), default="trec", help=text)
        add("--binary", action="store_true", help="count every grade above 0 as 1")
    elif name == "intent":
        text = "examples a label, 0 for the nearest label text: 0,1,4,8,16"
        add("--shots", type=numbers("--shots", least=0), default=(0, 1, 4, 8, 16), help=text)
        add("--seeds", type=int, default=5, help="draws of the examples; default: 5")
        add("--prompt", help="put before what is classified, word for word")
        text = "how a label becomes a text: {} is its place; default: {}"
        add("--label-format", default="{}", help=text)
    elif name == "transcribe":
        add("--split", default="", help="of a manifest (all) or a built data set (test)")
        add("--plain", action="store_true", help="compare without case and punctuation")
    elif name == "tradeoff":
        add("--corpus-size", type=int, help="documents to measure latency at; default: the set's")
        text = "documents that funnels look at again; default: a tenth of the set's, 10 to 100"
        add("--shortlist", type=int, help=text)
        text = (
            "write the best setting within it into the model: bytes=128 or latency_ms=5,flops=1e6"
        )
        add("--budget", help=text)


def default_name(command: str, data: str) -> str:
    name = Path(data).resolve().name if Path(data).exists() else data.partition("@")[0]
    prefix = "eval" if command == "retrieval" else command
    return f"{prefix}-{name.replace(':', '-').replace('/', '-')}"


def numbers(option: str, *, least: int = 1) -> Callable[[str], tuple[int, ...]]:
    """Reads "256,128"."""

    def read(text: str) -> tuple[int, ...]:
        try:
            found = tuple(int(part) for part in text.split(","))
        except ValueError as error:
            raise MrlError(f"{option} is {text!r}, expected numbers as in 256,128") from error
        if min(found) < least:
            raise MrlError(f"{option} is {text!r}, expected numbers of {least} or more")
        return found

    return read


if __name__ == "__main__":
    sys.exit(run_command(main))
