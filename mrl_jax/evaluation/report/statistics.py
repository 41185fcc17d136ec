"""Intervals and paired tests over clusters, and how tables write them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.metrics.intervals import (
    Clusters,
    Interval,
    PairedTest,
    cluster_bootstraps,
    holm,
    paired_test,
)
from mrl_jax.metrics.ties import METRICS


def clusters_by(
    ids: Sequence[str], texts: Sequence[str | None], speakers: Sequence[str | None]
) -> Clusters:
    """Clusters of equal text, crossed with speakers where some are known.

    An item without a text, or without a speaker, is a cluster of its own: its id stands in.
    """

    def labels(values: Sequence[str | None]) -> list[object]:
        return [(value, None) if value else key for value, key in zip(values, ids, strict=True)]

    return Clusters(texts=labels(texts), speakers=labels(speakers) if any(speakers) else None)


def intervals_of(columns: Sequence[Float[HostArray, " Q"]], clusters: Clusters) -> list[Interval]:
    """Mean and 95 % interval of each column, all from the same resamples."""
    return cluster_bootstraps(np.stack(columns, axis=1), clusters.texts, crossed=clusters.speakers)


def paired_difference(
    a: Float[HostArray, " Q"], b: Float[HostArray, " Q"], clusters: Clusters
) -> PairedTest:
    """Whether `a` and `b` differ on the same queries."""
    return paired_test(a, b, clusters.texts, crossed=clusters.speakers)


def adjusted_tests(
    pairs: Sequence[tuple[HostArray, HostArray]], clusters: Clusters
) -> list[tuple[PairedTest, float]]:
    """`paired_difference` of each pair, and its p-value adjusted by Holm for all of them."""
    tests = [paired_difference(a, b, clusters) for a, b in pairs]
    return list(zip(tests, holm([test.p_value for test in tests]), strict=True))


def mean_text(interval: Interval) -> str:
    """A mean and its interval, where it has one."""
    if np.isnan(interval.low):
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.2f} to {interval.high:.2f})"


DIFFERENCE = ("difference", "95 %", "p", "p, adjusted")
"""Columns of `difference_cells`."""


def difference_cells(test: PairedTest, *p_adjusted: float) -> list[str]:
    """A difference, its interval, and its p-values."""
    ends = f"{test.low:+.4f} to {test.high:+.4f}"
    return [f"{test.difference:+.4f}", ends, *map(p_text, (test.p_value, *p_adjusted))]


def p_text(value: float) -> str:
    """A p-value to three digits."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def metric_title(name: str) -> str:
    """ "nDCG@10" of "ndcg@10"."""
    metric, _, k = name.partition("@")
    return f"{METRICS[metric].title}@{k}"
