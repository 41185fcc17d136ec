"""The reports by name. Nothing of a report is imported before it is asked for.

A report NAME is a folder `mrl_jax/evaluation/NAME/` with `options.py` (class `NameOptions`),
`measure.py` (numbers), `figures.py` (tables and figures) and `report.py` (function
`report_NAME`, from options to a written folder), and one line here.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.report.options import ReportOptions

REPORTS: Mapping[str, str] = MappingProxyType(
    {
        "retrieval": "How good, and how sure: nDCG, MRR, MAP, recall and hit rate of speech (or "
        "text) queries at every dimension, from one encoding, with intervals and paired tests.",
        "intent": "Accuracy and F1 of intents at every dimension: the nearest label text, and a "
        "classifier of a few examples.",
        "spectrum": "How much of the vector is used: singular values, ranks, nDCG against rank "
        "and against prefix with controls, the gap between speech and text.",
        "tradeoff": "At what cost: dimension, precision and funnel search against bytes, work "
        "and time; --budget picks a search config and writes it into the model folder.",
        "compare": "Any number of trained systems and cascades on one set, from one encoding "
        "each: nDCG at every dimension with intervals, paired tests between systems, parameters, "
        "time and work of a query; of a cascade each stage's output, and what its recogniser's "
        "errors cost.",
        "transcribe": "A recogniser's word and character error rates with intervals, and its "
        "transcripts.",
        "robustness": "nDCG against noise, reverberation, telephone band, speed and clip length.",
    }
)
"""Name to help text."""


def check_report(name: str) -> None:
    """Refuse what is no report.

    Raises:
        MrlError: with the nearest name.
    """
    if name not in REPORTS:
        near = difflib.get_close_matches(name, REPORTS, n=1, cutoff=0.4)
        raise MrlError(
            f"there is no report {name!r}, expected one of {', '.join(REPORTS)}",
            hint=f"did you mean `{near[0]}`?" if near else "`--help` describes them",
        )


def options_class(name: str) -> type[ReportOptions]:
    """The options of a report."""
    module = importlib.import_module(f"mrl_jax.evaluation.{name}.options")
    return getattr(module, f"{name.capitalize()}Options")


def report_function(name: str) -> Callable[[Any], str]:
    """What measures and writes a report; takes its options, returns its first table."""
    module = importlib.import_module(f"mrl_jax.evaluation.{name}.report")
    return getattr(module, f"report_{name}")
