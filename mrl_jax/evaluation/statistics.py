"""How sure a mean is: intervals and paired tests for queries that are not independent.

Queries with the same words, or by the same speaker, succeed and fail together. So whole
clusters are resampled, not queries, and two ways of clustering may cross each other.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from scipy.stats import t as student

from mrl_jax.array_types import Float, HostArray, Int

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
    """The mean of a - b, its 95 % interval, and how likely one so large is by chance."""

    difference: float
    low: float
    high: float
    p_value: float


def cluster_bootstrap(
    values: Float[HostArray, " Q"],
    clusters: Sequence[Hashable] | None,
    *,
    crossed: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of `values`, and an interval from resampling whole clusters.

    Percentiles of the resampled means are taken further out than `level` says, by what
    Student's t is wider than the normal at as many degrees of freedom as there are clusters
    (Hesterberg, 2015): plain percentiles are too narrow. With two ways of clustering, squared
    distances from the mean add up, less those of their intersection, as variances do
    (Cameron, Gelbach and Miller, 2011); neither way alone is ever wider than the result.

    Args:
        values: one a query.
        clusters: what each query shares with others, as its text; None: queries are
            independent.
        crossed: a second way, as its speaker. A way with a single cluster tells nothing about
            the spread between clusters and is left out.
        level: how often the interval is to hold the true mean.
        resamples: of clusters.
        seed: of the resampling.
    """
    mean = _mean(values)
    ways = [np.arange(len(values)) if clusters is None else _codes(clusters)]
    if crossed is not None:
        ways.append(_codes(crossed))
    spoken = [way for way in ways if way.max() > 0]
    if not spoken:
        return Interval(mean=mean, low=float("nan"), high=float("nan"))
    rng = np.random.default_rng(seed)

    def reach(way: Int[HostArray, " Q"]) -> Float[HostArray, "2"]:
        return _reach(values, way, mean, level, resamples, rng)

    each = [reach(way) for way in spoken]
    squared = each[0] ** 2
    if len(spoken) == 2:
        both = reach(_codes(list(zip(*(way.tolist() for way in spoken), strict=True))))
        crossing = each[0] ** 2 + each[1] ** 2 - both**2
        squared = np.maximum(crossing, np.maximum(each[0] ** 2, each[1] ** 2))
    down, up = np.sqrt(squared)
    # A mean lies between the least and the largest value, and so do both ends.
    low, high = max(mean - down, values.min()), min(mean + up, values.max())
    return Interval(mean=mean, low=float(low), high=float(high))


def paired_test(
    a: Float[HostArray, " Q"],
    b: Float[HostArray, " Q"],
    clusters: Sequence[Hashable] | None,
    *,
    crossed: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Whether two settings differ on the same queries.

    Were they alike, the differences of each cluster could as well have the other sign: the
    p-value is the share of sign patterns whose sum is as far from zero as the one seen, all
    patterns where they are few. With two ways of clustering the larger p-value counts.

    Args:
        a, b: one value a query, in the same order.
        clusters, crossed: as in `cluster_bootstrap`.
        resamples: sign patterns, and resamples of the interval of the difference.
        seed: of both.
    """
    differences = a - b
    interval = cluster_bootstrap(
        differences, clusters, crossed=crossed, resamples=resamples, seed=seed
    )
    ways = [np.arange(len(a)) if clusters is None else _codes(clusters)]
    if crossed is not None and len(set(crossed)) > 1:
        ways.append(_codes(crossed))
    p_value = max(_sign_flips(np.bincount(way, differences), resamples, seed) for way in ways)
    return PairedTest(
        difference=interval.mean, low=interval.low, high=interval.high, p_value=p_value
    )


def _reach(
    values: Float[HostArray, " Q"],
    way: Int[HostArray, " Q"],
    mean: float,
    level: float,
    resamples: int,
    rng: np.random.Generator,
) -> Float[HostArray, "2"]:
    """How far the interval reaches below and above the mean."""
    sums, sizes = np.bincount(way, values - mean), np.bincount(way).astype(np.float64)
    count = len(sums)
    means = np.empty(resamples)
    for start in range(0, resamples, ROWS):
        rows = min(ROWS, resamples - start)
        chosen = rng.integers(0, count, (rows, count), dtype=np.int32)
        means[start : start + rows] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    quantile = student.ppf((1 + level) / 2, count - 1) * np.sqrt(count / (count - 1))
    tail = NormalDist().cdf(-float(quantile))
    low, high = np.quantile(means, [tail, 1 - tail])
    return np.asarray([max(-low, 0.0), max(high, 0.0)])


def _sign_flips(sums: Float[HostArray, " G"], resamples: int, seed: int) -> float:
    count, seen = len(sums), abs(sums.sum()) * (1 - 1e-12)
    if 2**count <= resamples:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs((2.0 * patterns - 1.0) @ sums) >= seen))
    rng, extreme = np.random.default_rng(seed), 1  # The pattern seen is one of them.
    for start in range(0, resamples, ROWS):
        signs = rng.integers(0, 2, (min(ROWS, resamples - start), count), dtype=np.int8)
        extreme += int(np.sum(np.abs((2.0 * signs - 1.0) @ sums) >= seen))
    return extreme / (resamples + 1)


def _mean(values: Float[HostArray, " Q"]) -> float:
    if not len(values):
        raise ValueError("there are no values")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    return float(np.mean(values))


def _codes(labels: Sequence[Hashable]) -> Int[HostArray, " Q"]:
    """Each label as the number of its first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)
