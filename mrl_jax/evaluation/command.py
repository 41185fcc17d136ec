"""Measure a trained model: `mrl-jax eval REPORT --model DIR --data DIR`.

Or several side by side, cascades of recogniser, translator and text tower among them:
`mrl-jax eval compare --models NAME=DIR NAME=DIR --data DIR --out DIR`.
Or a recogniser alone: `mrl-jax eval transcribe --model DIR --data DIR --out DIR`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.addresses import shown
from mrl_jax.core.cli import CommandParser
from mrl_jax.core.errors import MrlError
from mrl_jax.core.hub import hub_name_of
from mrl_jax.evaluation.report.options import add_options, set_name
from mrl_jax.evaluation.report.registry import REPORTS, options_class, report_function


def main(argv: Sequence[str], *, prog: str = "mrl-jax eval") -> int:
    """Measure and write the report that `argv` names.

    Raises:
        MrlError: no such report, or options that it does not take; whatever it raises.
    """
    parser = CommandParser(prog=prog, description=__doc__, allow_abbrev=False)
    reports = parser.add_subparsers(dest="report", required=True, metavar="REPORT")
    for name, text in REPORTS.items():
        report = reports.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name in argv[:1]:  # The options of the others stay unimported.
            add_options(report, options_class(name))
    arguments = vars(parser.parse_args(argv))
    name = arguments.pop("report")
    data = arguments["data"]
    if arguments["out"] is None:
        if hub_name_of(arguments["model"]) is not None:
            hint = "pass --out FOLDER"
            raise MrlError("a model of the hub has no folder for the report", hint=hint)
        arguments["out"] = arguments["model"] / default_folder(name, data)
    if Path(data).exists():
        arguments["data"] = Path(data)
    options = options_class(name)(**arguments)
    from mrl_jax.core.compilation_cache import keep_compiled

    keep_compiled()
    print(report_function(name)(options))
    page, figures = (shown(options.out / name) for name in ("report.md", "report.html"))
    print(f"report: {page}, with figures: {figures}")
    return 0


def default_folder(report: str, data: str) -> str:
    """What a report's folder in the model's is called."""
    prefix = "eval" if report == "retrieval" else report
    name = re.sub(r"[:/\\]", "-", set_name(data))
    return f"{prefix}-{name}"
