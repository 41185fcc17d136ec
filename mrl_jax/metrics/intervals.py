"""Confidence intervals and paired tests of means over queries that are not independent.

Scores of queries with the same text, or by the same speaker, are correlated. So whole clusters
are resampled, not queries; clusters by text and by speaker may cross.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

from mrl_jax.core.arguments import Fraction, Range, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError

Resamples = Annotated[int, Range(1.0, 1e6)]
ROWS = 250
"""Resamples held in memory at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and the ends of its interval, NaN where one cluster is all there is."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedTest:
    """The mean of a - b, its 95 % interval, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


@checked
def cluster_bootstrap(
    values: Float[HostArray, " Q"], clusters: Sequence[Hashable] | None, **options: Any
) -> Interval:
    """`cluster_bootstraps` of one column."""
    return cluster_bootstraps(values[:, None], clusters, **options)[0]


@checked
def cluster_bootstraps(
    values: Float[HostArray, "Q M"],
    clusters: Sequence[Hashable] | None,
    *,
    crossed: Sequence[Hashable] | None = None,
    level: Fraction = 0.95,
    resamples: Resamples = 2000,
    seed: int = 0,
) -> list[Interval]:
    """The mean of each column of `values`, and an interval from resampling whole clusters.

    Percentiles of the resampled means are taken further out than at `level`, by what
    Student's t is wider than the normal at as many degrees of freedom as there are clusters
    (Hesterberg, 2015): plain percentiles are too narrow. They also never reach beyond the
    extreme cluster, which is too near where clusters are few, so that an end is never nearer
    than Student's t times the standard error between clusters. With two ways of clustering, squared
    distances from the mean add up, less those of their intersection, as variances do
    (Cameron, Gelbach and Miller, 2011); neither way alone is ever wider than the result.
    Values that are all alike give an interval without width.

    Args:
        values: one row a query.
        clusters: label of each query's cluster, such as its text; None: queries are
            independent.
        crossed: a second clustering, such as by speaker. A clustering into a single cluster has
            no spread between clusters and is left out.
        level: confidence level.
        resamples: of clusters, the same for all columns.
        seed: of the resampling.
    """
    if not len(values):
        raise ArgumentError("there are no values")
    if not np.isfinite(values).all():
        raise ArgumentError("a value is not finite")
    means = np.mean(values, axis=0)
    ways = [way for way in _ways(len(values), clusters, crossed) if way.max() > 0]
    if not ways:
        return [Interval(mean=float(m), low=float("nan"), high=float("nan")) for m in means]
    rng = np.random.default_rng(seed)

    def squared_reach(way: Int[HostArray, " Q"]) -> Float[HostArray, "2 M"]:
        return _reach(values - means, way, level, resamples, rng) ** 2

    squares = [squared_reach(way) for way in ways]
    squared = squares[0]
    if len(ways) == 2:
        both = _intersection(*ways)
        squared = np.maximum.reduce([*squares, squares[0] + squares[1] - squared_reach(both)])
    down, up = np.sqrt(squared)
    # A mean lies between the least and the largest value, and so do both ends; the mean of
    # equal values may round to beside them.
    low = np.minimum(np.maximum(means - down, values.min(axis=0)), means)
    high = np.maximum(np.minimum(means + up, values.max(axis=0)), means)
    return [
        Interval(mean=float(mean), low=float(one), high=float(other))
        for mean, one, other in zip(means, low, high, strict=True)
    ]


@checked
def paired_test(
    a: Float[HostArray, " Q"],
    b: Float[HostArray, " Q"],
    clusters: Sequence[Hashable] | None,
    *,
    crossed: Sequence[Hashable] | None = None,
    resamples: Resamples = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Whether two systems differ on the same queries.

    Under the null hypothesis the differences of each cluster may have either sign: the p-value
    is the fraction of sign patterns whose sum is as far from zero as the observed one, over all
    patterns where they are few. With crossed clusters no such pattern keeps both: then it is
    that of Student's t for the mean over its two-way standard error (Cameron, Gelbach
    and Miller, 2011, section 2.3), with one degree of freedom less than the way of fewer
    clusters has clusters.

    Args:
        a, b: one value a query, in the same order.
        clusters, crossed: as in `cluster_bootstrap`.
        resamples: sign patterns; the interval of the difference takes at most 2000.
        seed: of both.
    """
    differences = a - b
    interval = cluster_bootstrap(
        differences, clusters, crossed=crossed, resamples=min(resamples, 2000), seed=seed
    )
    ways = _ways(len(a), clusters, crossed)
    ways = [way for way in ways if way.max() > 0] or ways[:1]
    p_value = _two_way_p(differences, ways) if len(ways) == 2 else None
    if p_value is None:
        p_value = max(_sign_flips(np.bincount(way, differences), resamples, seed) for way in ways)
    return PairedTest(
        difference=interval.mean, low=interval.low, high=interval.high, p_value=p_value
    )


@checked
def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several (Holm, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _reach(
    centred: Float[HostArray, "Q M"],
    way: Int[HostArray, " Q"],
    level: float,
    resamples: int,
    rng: np.random.Generator,
) -> Float[HostArray, "2 M"]:
    """How far each column's interval reaches below and above its mean."""
    columns = np.concatenate((centred, np.ones((len(centred), 1))), axis=1)
    sums = np.zeros((int(way.max()) + 1, columns.shape[1]))
    np.add.at(sums, way, columns)
    count = len(sums)
    means = np.empty((resamples, centred.shape[1]))
    for start in range(0, resamples, ROWS):
        rows = min(ROWS, resamples - start)
        chosen = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(chosen.ravel(), minlength=rows * count).reshape(rows, count)
        total = times.astype(np.float64) @ sums
        means[start : start + rows] = total[:, :-1] / total[:, -1:]
    quantile = student.ppf((1 + level) / 2, count - 1) * np.sqrt(count / (count - 1))
    tail = NormalDist().cdf(-float(quantile))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    squares = np.sum(sums[:, :-1] ** 2, axis=0) / len(centred) ** 2
    least = float(quantile) * np.sqrt(squares)  # The quantile holds the factor G / (G - 1).
    return np.stack((np.maximum(-low, least), np.maximum(high, least)))


def _two_way_p(
    differences: Float[HostArray, " Q"], ways: Sequence[Int[HostArray, " Q"]]
) -> float | None:
    """Two-sided p-value of the mean; None where all clusters are alike and it is undefined."""
    mean = differences.mean()

    def variance(way: Int[HostArray, " Q"]) -> float:
        sums = np.bincount(way, differences - mean)
        return len(sums) / (len(sums) - 1) * float(np.sum(sums**2)) / len(differences) ** 2

    first, second = map(variance, ways)
    shared = variance(_intersection(*ways))
    error = np.sqrt(max(first, second, first + second - shared))
    if error <= 1e-12 * abs(mean) or not error:
        return None
    freedom = min(int(way.max()) for way in ways)
    return float(2 * student.sf(abs(mean) / error, freedom))


def _sign_flips(sums: Float[HostArray, " G"], resamples: int, seed: int) -> float:
    count, observed = len(sums), abs(sums.sum()) * (1 - 1e-12)
    if 2**count <= resamples:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs((2.0 * patterns - 1.0) @ sums) >= observed))
    rng, extreme = np.random.default_rng(seed), 1  # The observed pattern is one of them.
    for start in range(0, resamples, ROWS):
        signs = rng.integers(0, 2, (min(ROWS, resamples - start), count), dtype=np.int8)
        extreme += int(np.sum(np.abs((2.0 * signs - 1.0) @ sums) >= observed))
    return extreme / (resamples + 1)


def _ways(
    size: int, clusters: Sequence[Hashable] | None, crossed: Sequence[Hashable] | None
) -> list[Int[HostArray, " Q"]]:
    ways = [range(size) if clusters is None else clusters, *([] if crossed is None else [crossed])]
    for labels in ways:
        if len(labels) != size:
            raise ArgumentError(f"{size} values and {len(labels)} labels")
    return [_codes(labels) for labels in ways]


def _intersection(
    first: Int[HostArray, " Q"], second: Int[HostArray, " Q"]
) -> Int[HostArray, " Q"]:
    """Clusters that are alike in both ways, as `_codes` of the pairs."""
    pairs = first * (second.max() + 1) + second
    _, places, codes = np.unique(pairs, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(places))[codes]


def _codes(labels: Sequence[Hashable]) -> Int[HostArray, " Q"]:
    """Each label as the number of its first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clusters:
    """Clusters of the judged queries, in their order; no speakers where none is named."""

    texts: Sequence[Hashable]
    speakers: Sequence[Hashable] | None = None

    @property
    def how_tested(self) -> str:
        """How paired tests are made over them, for a report."""
        if len(set(self.speakers or ())) > 1 and len(set(self.texts)) > 1:
            return "take Student's t of the difference over its two-way clustered standard error"
        return "flip the signs of whole clusters"
