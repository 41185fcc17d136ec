"""Systems side by side on the same queries: scores, costs, paired tests.

A `System` is the values that something reached for each query, and what it costs. So one that
is no model of this library is compared by making a `System` of its own.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from jaxtyping import Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.evaluation.report.statistics import intervals_of, paired_difference
from mrl_jax.metrics.intervals import Clusters, Interval, PairedTest, holm

METRIC = "ndcg@10"
METRICS = ("ndcg@5", METRIC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a system costs.

    Attributes:
        parameters: of all its parts; NaN where they are not known.
        trained: those of them that training changed.
        seconds: to embed one query, see `time_query`.
        flops: floating-point operations to embed one query; NaN where they are not known.
    """

    parameters: int | float
    trained: int
    seconds: float
    flops: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """One system on a set.

    Attributes:
        name: of the system.
        kind: what it is, in a few words.
        scores: dim to metric ("ndcg@10" and others) to one value a judged query, in the
            order that all systems have.
        cost: per query.
    """

    name: str
    kind: str
    scores: Mapping[int, Mapping[str, Float[HostArray, " Q"]]]
    cost: Cost


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemDifference:
    """One system beside another at one dimension.

    Attributes:
        name, other: the two; the score of `other` is taken from that of `name`.
        dim: that both are searched at.
        test: of the difference in nDCG@10.
        p_adjusted: by Holm, for all pairs and dimensions of the comparison.
    """

    name: str
    other: str
    dim: int
    test: PairedTest
    p_adjusted: float


Means = Mapping[tuple[str, int, str], Interval]
"""(system, dim, metric) to mean and interval."""


def system_means(systems: Sequence[System], clusters: Clusters) -> Means:
    """Every metric of every system at every dimension, all from the same resamples.

    Raises:
        ValueError: two systems of one name, or with other dims, metrics or queries.
    """
    keys = [
        (system.name, dim, metric)
        for system in systems
        for dim, values in system.scores.items()
        for metric in values
    ]
    shapes = {
        tuple((dim, metric, len(v)) for dim, of in s.scores.items() for metric, v in of.items())
        for s in systems
    }
    if len(set(keys)) != len(keys) or len(shapes) != 1:
        raise ValueError("systems must have different names, and the same dims, metrics, queries")
    columns = [v for s in systems for values in s.scores.values() for v in values.values()]
    return dict(zip(keys, intervals_of(columns, clusters), strict=True))


def system_differences(systems: Sequence[System], clusters: Clusters) -> list[SystemDifference]:
    """nDCG@10 of every two systems at every dimension, on the same queries."""
    pairs = [
        (dim, one, other)
        for dim in (systems[0].scores if systems else ())
        for one, other in itertools.combinations(systems, 2)
    ]
    tests = [
        paired_difference(one.scores[dim][METRIC], other.scores[dim][METRIC], clusters)
        for dim, one, other in pairs
    ]
    adjusted = holm([test.p_value for test in tests])
    return [
        SystemDifference(name=one.name, other=other.name, dim=dim, test=test, p_adjusted=p)
        for (dim, one, other), test, p in zip(pairs, tests, adjusted, strict=True)
    ]
