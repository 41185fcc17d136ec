"""Word and character error rates of transcripts, counted by jiwer, with intervals.

A rate is a ratio of two sums, so that its interval is that of the mean of its linearised
values (the ratio estimator's; Cochran, Sampling Techniques, 1977, section 6.3).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrl_jax.array_types import Float, HostArray
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.comparison import Clusters
from mrl_jax.evaluation.records import Record
from mrl_jax.evaluation.report import markdown_table
from mrl_jax.evaluation.statistics import Interval, cluster_bootstraps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
    """What has to be changed to make the reference of the hypothesis.

    Attributes:
        units: words or characters of the reference, at least 1.
    """

    units: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors a unit; above 1 where much is inserted."""
        return self.total / self.units


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """References beside hypotheses, utterance by utterance.

    Attributes:
        words, characters: errors of each. Spaces count as characters.
    """

    words: Sequence[Errors]
    characters: Sequence[Errors]

    @property
    def wer(self) -> float:
        """Word errors over all words of the references."""
        return _rate(self.words)

    @property
    def cer(self) -> float:
        """Character errors over all characters of the references."""
        return _rate(self.characters)

    @property
    def perfect(self) -> Float[HostArray, " U"]:
        """1 for each utterance without any error, else 0."""
        return np.asarray([float(not errors.total) for errors in self.words])


def compare_transcripts(references: Sequence[str], hypotheses: Sequence[str]) -> Comparison:
    """Count errors of each utterance; hypotheses may be empty.

    Raises:
        MrlError: jiwer is not installed; nothing to compare; an empty reference, which
            has no rate.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses")
    if not references:
        raise MrlError("there is no transcript to compare", mend="pass one or more")
    for number, text in enumerate(references):
        if not text.strip():
            raise MrlError(
                "is empty, so no error rate is defined",
                where=f"reference {number}",
                mend="write down what is said, or leave it out",
            )
    jiwer = import_jiwer()
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    return Comparison(words=_each(words), characters=_each(characters))


def import_jiwer() -> Any:
    """jiwer; an `MrlError` where it is not installed."""
    try:
        import jiwer
    except ImportError as error:
        raise MrlError(
            "error rates take jiwer, which is not installed",
            mend="install the extra: `pip install 'mrl_jax[train]'`",
        ) from error
    return jiwer


def rate_intervals(errors: Sequence[Sequence[Errors]], clusters: Clusters) -> list[Interval]:
    """Each rate with its interval, all from the same resamples; no end is below 0.

    Args:
        errors: of the same utterances, `[c.words, c.characters]` for instance.
        clusters: what utterances share.
    """
    columns = []
    for some in errors:
        totals = np.asarray([one.total for one in some], np.float64)
        units = np.asarray([one.units for one in some], np.float64)
        rate = totals.sum() / units.sum()
        # Their mean is the rate; to first order they vary as it does.
        columns.append(rate + (totals - rate * units) / units.mean())
    found = cluster_bootstraps(np.stack(columns, axis=1), clusters.texts, crossed=clusters.speakers)
    return [dataclasses.replace(one, low=_not_below_zero(one.low)) for one in found]


def error_records(
    comparison: Comparison, clusters: Clusters, setting: Mapping[str, str | int | float]
) -> list[Record]:
    """Rates and the share of perfect utterances with intervals, and each kind of error."""
    n = len(comparison.words)
    wer, cer = rate_intervals([comparison.words, comparison.characters], clusters)
    (right,) = cluster_bootstraps(
        comparison.perfect[:, None], clusters.texts, crossed=clusters.speakers
    )
    rows = [
        Record(
            metric=name,
            value=one.mean,
            n=n,
            low=_known(one.low),
            high=_known(one.high),
            setting=setting,
        )
        for name, one in (("wer", wer), ("cer", cer), ("perfect utterances", right))
    ]
    for unit, errors in (("word", comparison.words), ("character", comparison.characters)):
        for kind in ("substitutions", "deletions", "insertions", "units"):
            name = f"{unit}s" if kind == "units" else f"{unit} {kind}"
            count = float(sum(getattr(one, kind) for one in errors))
            rows.append(Record(metric=name, value=count, n=n, setting=setting))
    return rows


def error_table(records: Sequence[Record]) -> str:
    """Rates in per cent, with their intervals."""
    rows = []
    for record in records:
        if record.metric in ("wer", "cer", "perfect utterances"):
            name = record.metric.upper() if len(record.metric) == 3 else record.metric
            ends = ""
            if record.low is not None and record.high is not None:
                ends = f"{100 * record.low:.1f} to {100 * record.high:.1f}"
            rows.append([name, f"{100 * record.value:.1f} %", ends, str(record.n)])
    return markdown_table(["", "mean", "95 %", "utterances"], rows)


def error_columns(comparison: Comparison, row: int) -> dict[str, int | float]:
    """One utterance's errors, flat, as its line of transcripts.jsonl has them."""
    words, characters = comparison.words[row], comparison.characters[row]
    return {
        "words": words.units,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "wer": words.rate,
        "cer": characters.rate,
    }


def _each(output: Any) -> list[Errors]:
    """Of jiwer's WordOutput or CharacterOutput, each sentence's own counts."""
    found = []
    for reference, chunks in zip(output.references, output.alignments, strict=True):
        counts = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
        for chunk in chunks:
            in_reference = chunk.ref_end_idx - chunk.ref_start_idx
            in_hypothesis = chunk.hyp_end_idx - chunk.hyp_start_idx
            counts[chunk.type] += max(in_reference, in_hypothesis)
        found.append(
            Errors(
                units=len(reference),
                substitutions=counts["substitute"],
                deletions=counts["delete"],
                insertions=counts["insert"],
            )
        )
    return found


def _rate(errors: Sequence[Errors]) -> float:
    return sum(one.total for one in errors) / sum(one.units for one in errors)


def _not_below_zero(value: float) -> float:
    return value if np.isnan(value) else max(value, 0.0)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
