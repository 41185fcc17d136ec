"""Systems side by side on the same queries: scores, costs, paired tests.

A `System` is the values that something reached for each query, and what it costs. So one that
is no model of this library is compared by making a `System` of its own.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from jaxtyping import Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.evaluation.compare.cascades import CascadeRun
from mrl_jax.evaluation.report.statistics import adjusted_tests, intervals_of
from mrl_jax.metrics.intervals import Clusters, Interval, PairedTest

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
        kind: what it is, in a few words.
        scores: dim to metric ("ndcg@10" and others) to one value a judged query, in the
            order that all systems have.
        run: each stage's output, of a cascade.
    """

    name: str
    kind: str
    scores: Mapping[int, Mapping[str, Float[HostArray, " Q"]]]
    cost: Cost
    run: CascadeRun | None = None


@dataclasses.dataclass(frozen=True)
class SystemDifference:
    """nDCG@10 of `name` less that of `other`; p adjusted by Holm for all pairs and dims."""

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
        ArgumentError: two systems of one name, or with other dims, metrics or queries.
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
        problem = "systems must have different names, and the same dims, metrics, queries"
        raise ArgumentError(problem)
    columns = [v for s in systems for values in s.scores.values() for v in values.values()]
    return dict(zip(keys, intervals_of(columns, clusters), strict=True))


def system_differences(systems: Sequence[System], clusters: Clusters) -> list[SystemDifference]:
    """nDCG@10 of every two systems at every dimension, on the same queries."""
    pairs = [
        (dim, one, other)
        for dim in (systems[0].scores if systems else ())
        for one, other in itertools.combinations(systems, 2)
    ]
    columns = [(one.scores[dim][METRIC], other.scores[dim][METRIC]) for dim, one, other in pairs]
    return [
        SystemDifference(one.name, other.name, dim, *test)
        for (dim, one, other), test in zip(pairs, adjusted_tests(columns, clusters), strict=True)
    ]
