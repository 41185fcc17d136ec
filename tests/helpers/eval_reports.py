"""Reports run as their commands run them, or as functions with options by keyword."""

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrl_jax.core.cli import run_command
from mrl_jax.evaluation.report.registry import options_class, report_function

PAGES = {"report.md", "report.html", "results.jsonl"}
"""What every report's folder holds."""


def evaluate(*words: object) -> int:
    """The status of `eval.py WORDS`."""
    return run_command(importlib.import_module("eval").main, [str(word) for word in words])


def _report(name: str) -> Callable[..., str]:
    def run(model: object, data: Path | str, out: Path, **options: Any) -> str:
        function = report_function(name)
        outer = {key: options.pop(key) for key in [*options] if key in _keywords(function)}
        subject = "models" if name == "compare" else "model"
        chosen = options_class(name)(**{subject: model, "data": data, "out": out, **options})
        return function(chosen, **outer)

    return run


def _keywords(function: Callable[..., str]) -> set[str]:
    return set(list(inspect.signature(function).parameters)[1:])


report_retrieval = _report("retrieval")
report_intent = _report("intent")
report_spectrum = _report("spectrum")
report_robustness = _report("robustness")
report_compare = _report("compare")
report_transcribe = _report("transcribe")


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(capsys: Any, *words: object) -> str:
    """The one line that `eval.py WORDS` ends with, at status 2."""
    assert evaluate(*words) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def names_in(folder: Path) -> set[str]:
    """What a folder holds."""
    return {path.name for path in folder.iterdir()}
