"""Word and character error rates of transcripts, counted by jiwer, with intervals.

A rate is a ratio of two sums, so that its interval is that of the mean of its linearised
values (the ratio estimator's; Cochran, Sampling Techniques, 1977, section 6.3).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import intervals_of
from mrl_jax.metrics.error_rates import Comparison, Errors
from mrl_jax.metrics.intervals import Clusters, Interval


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
    intervals = intervals_of(columns, clusters)
    return [dataclasses.replace(one, low=float(np.maximum(one.low, 0.0))) for one in intervals]


def error_records(
    comparison: Comparison, clusters: Clusters, setting: Mapping[str, str | int | float]
) -> list[Record]:
    """Rates and the part of perfect utterances with intervals, and each kind of error."""
    n = len(comparison.words)
    wer, cer = rate_intervals([comparison.words, comparison.characters], clusters)
    (perfect,) = intervals_of([comparison.perfect], clusters)
    rows = []
    for name, one in (("wer", wer), ("cer", cer), ("perfect utterances", perfect)):
        low, high = (None if np.isnan(end) else end for end in (one.low, one.high))
        rows.append(Record(metric=name, value=one.mean, n=n, low=low, high=high, setting=setting))
    for unit, errors in (("word", comparison.words), ("character", comparison.characters)):
        for kind in ("substitutions", "deletions", "insertions", "units"):
            name = f"{unit}s" if kind == "units" else f"{unit} {kind}"
            count = float(sum(getattr(one, kind) for one in errors))
            rows.append(Record(metric=name, value=count, n=n, setting=setting))
    return rows


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
