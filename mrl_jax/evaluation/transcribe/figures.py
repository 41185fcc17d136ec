"""Error rates as tables, rows and a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl_jax.data.build.utterances import Utterance
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.plotting import figure, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.transcribe.measure import error_columns
from mrl_jax.metrics.error_rates import Comparison

WORST, SPEAKERS = 10, 20
"""Utterances and speakers that are shown."""
RATES = {"wer": "WER", "cer": "CER", "perfect utterances": "perfect utterances"}


def transcript_rows(
    utterances: Sequence[Utterance], hypotheses: Sequence[str], comparison: Comparison
) -> list[dict[str, object]]:
    """Reference, hypothesis, and the errors between them."""
    return [
        {
            "id": utterance.id,
            "speaker": utterance.speaker,
            "reference": utterance.transcript,
            "hypothesis": text,
            **error_columns(comparison, row),
        }
        for row, (utterance, text) in enumerate(zip(utterances, hypotheses, strict=True))
    ]


def error_table(records: Sequence[Record]) -> Table:
    """Rates in per cent, with their intervals."""
    rows = []
    for one in records:
        if one.metric in RATES:
            ends = ""
            if one.low is not None and one.high is not None:
                ends = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
            rows.append([RATES[one.metric], f"{100 * one.value:.1f} %", ends, str(one.n)])
    return Table(["", "mean", "95 %", "utterances"], rows)


def kinds_table(records: Sequence[Record]) -> Table:
    """One row for words, one for characters."""
    counts = {record.metric: record.value for record in records}
    kinds = ("substitutions", "deletions", "insertions")
    rows = []
    for unit in ("word", "character"):
        names = [*(f"{unit} {kind}" for kind in kinds), f"{unit}s"]
        rows.append([f"{unit}s", *(f"{counts[name]:.0f}" for name in names)])
    return Table(["", *kinds, "in references"], rows)


def speaker_table(utterances: Sequence[Utterance], comparison: Comparison) -> Table:
    """One row a speaker, those with the highest rates first."""
    rows: dict[str, list[int]] = {}
    for row, utterance in enumerate(utterances):
        rows.setdefault(utterance.speaker or "(not named)", []).append(row)
    rates = []
    for speaker, of in rows.items():
        part = Comparison(
            words=[comparison.words[row] for row in of],
            characters=[comparison.characters[row] for row in of],
        )
        cells = [speaker, f"{100 * part.wer:.1f}", f"{100 * part.cer:.1f}", str(len(of))]
        rates.append((-part.wer, cells))
    worst = [cells for _, cells in sorted(rates)[:SPEAKERS]]
    return Table(["speaker", "WER, %", "CER, %", "utterances"], worst)


def worst_table(
    utterances: Sequence[Utterance], hypotheses: Sequence[str], comparison: Comparison
) -> Table:
    """The utterances with the most word errors for their length."""
    errors = comparison.words
    rows = [
        [one.id, one.transcript or "", hypotheses[row], str(errors[row].total)]
        for row, one in sorted(enumerate(utterances), key=lambda pair: -errors[pair[0]].rate)[
            :WORST
        ]
    ]
    return Table(["id", "reference", "hypothesis", "word errors"], rows)


def plot_errors(path: Path, comparison: Comparison) -> None:
    """How many utterances have so many word errors."""
    totals = np.asarray([errors.total for errors in comparison.words])
    drawing, axes = figure()
    axes.bar(np.arange(totals.max() + 1), np.bincount(totals))
    axes.set_xlabel("word errors in an utterance")
    axes.set_ylabel("utterances")
    save(drawing, path)
