"""What a model scored on a retrieval set: intervals, and tests between dimensions."""

import dataclasses

from mrl_jax.data.sets.retrieval_set import RetrievalSet
from mrl_jax.evaluation.report.statistics import adjusted_tests, intervals_of
from mrl_jax.evaluation.scoring import Judgements, RetrievalResult
from mrl_jax.metrics.intervals import Clusters, Interval, PairedTest


@dataclasses.dataclass(frozen=True)
class RetrievalRun:
    """A model measured on a set.

    Attributes:
        data: the set, less the queries without a relevant document.
        judgements, clusters: of the others.
        results: one a dimension.
    """

    data: RetrievalSet
    judgements: Judgements
    clusters: Clusters
    results: list[RetrievalResult]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The score of `dim` less that of `other` on the same queries; p adjusted by Holm."""

    dim: int
    other: int
    test: PairedTest
    p_adjusted: float


def metric_intervals(run: RetrievalRun) -> dict[tuple[int, str], Interval]:
    """(dim, metric) to mean and interval, all from the same resamples."""
    keys = [(result.dim, name) for result in run.results for name in result.per_query]
    columns = [values for result in run.results for values in result.per_query.values()]
    return dict(zip(keys, intervals_of(columns, run.clusters), strict=True))


def dimension_differences(run: RetrievalRun, metric: str) -> list[Difference]:
    """Each dimension beside the next wider one, and beside the widest."""
    values = {result.dim: result.per_query[metric] for result in run.results}
    dims = sorted(values, reverse=True)
    pairs = [*zip(dims[1:], dims, strict=False), *((dim, dims[0]) for dim in dims[2:])]
    tests = adjusted_tests([(values[a], values[b]) for a, b in pairs], run.clusters)
    return [Difference(*pair, *test) for pair, test in zip(pairs, tests, strict=True)]
