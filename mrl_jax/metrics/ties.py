"""Ranking metrics where documents of equal score may stand in any order.

A ranking is groups of documents with the same score. Every order inside the groups is as
good as any other, so a metric has a mean over all orders, a best and a worst; all three are
computed exactly, by formulas over groups.

References:
    McSherry and Najork, 2008, Computing information retrieval performance measures
    efficiently in the presence of tied scores.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.metrics import ranking as metrics


@dataclasses.dataclass(frozen=True)
class TiedRanking:
    """The first R ranks of each query, and what is tied with the last of them.

    Args:
        grades: grade at each rank, in any order inside groups of equal score.
        scores: score at each rank, not increasing.
        beyond: grades of the judged documents behind rank R that are tied with it, filled
            with zeros.
        tied: how many documents behind rank R are tied with it, judged or not.
        judged: grades of all judged documents, filled with zeros.
    """

    grades: Int[HostArray, "Q R"]
    scores: Float[HostArray, "Q R"]
    beyond: Int[HostArray, "Q X"]
    tied: Int[HostArray, " Q"]
    judged: Int[HostArray, "Q J"]

    def expected(self, metric: str, k: int) -> Float[HostArray, " Q"]:
        """Mean of a metric, by its name in `METRICS`, over all orders."""
        metrics.check_k(k)
        if metric not in METRICS:
            raise ArgumentError(f"there is no metric {metric!r}, only {', '.join(METRICS)}")
        return METRICS[metric].expected(self, k)

    def best(self, metric: str, k: int) -> Float[HostArray, " Q"]:
        """A metric of the order in which it is highest."""
        return METRICS[metric].function(self._ordered(best=True), self.judged, k)

    def worst(self, metric: str, k: int) -> Float[HostArray, " Q"]:
        """A metric of the order in which it is lowest."""
        return METRICS[metric].function(self._ordered(best=False), self.judged, k)

    def _numbers(self) -> Int[HostArray, "Q R"]:
        """Number of each rank's group, from 0."""
        new = self.scores[:, 1:] != self.scores[:, :-1]
        return np.cumsum(np.pad(new, ((0, 0), (1, 0))), axis=1)

    def groups(self, k: int) -> tuple[HostArray, HostArray, HostArray, HostArray]:
        """[Q, k] of the first ranks' groups: ranks before, documents, summed grades, relevant."""
        number, grades = self._numbers(), self.grades.clip(min=0)
        rows, ranks = number.shape
        flat = (number + ranks * np.arange(rows)[:, None]).ravel()
        last = number[:, -1] + ranks * np.arange(rows)

        def add_up(inside: HostArray, behind: HostArray) -> HostArray:
            sums = np.bincount(flat, inside.ravel(), rows * ranks)
            sums[last] += behind
            return sums[flat].reshape(rows, ranks)

        inside = np.bincount(flat, minlength=rows * ranks).reshape(rows, ranks)
        start = np.take_along_axis(np.cumsum(inside, axis=1) - inside, number, axis=1)
        size = add_up(np.ones(number.shape), self.tied)
        gain = add_up(grades, self.beyond.clip(min=0).sum(axis=1))
        hits = add_up(grades > 0, (self.beyond > 0).sum(axis=1))
        return start[:, :k], size[:, :k], gain[:, :k], hits[:, :k]

    def hits_before(self, hits: HostArray, size: HostArray) -> Float[HostArray, "Q R"]:
        """Relevant documents in the groups before each rank's own."""
        share = hits / size
        number = self._numbers()[:, : hits.shape[1]]
        run = np.cumsum(share, axis=1) - share  # Whole groups add up to their hits.
        first = np.diff(number, axis=1, prepend=-1) > 0
        begins = np.maximum.accumulate(np.where(first, np.arange(number.shape[1]), 0), axis=1)
        return np.round(np.take_along_axis(run, begins, axis=1))

    def _ordered(self, *, best: bool) -> Int[HostArray, "Q R"]:
        """Grades at each rank, groups sorted by grade."""
        rows, ranks = self.grades.shape
        number = self._numbers()
        last = number[:, -1:]
        # Tied documents without a grade may displace others from the first ranks.
        fill = np.arange(ranks) < (self.tied - (self.beyond > 0).sum(axis=1))[:, None]
        grades = np.concatenate(
            (self.grades.clip(min=0), self.beyond.clip(min=0), np.zeros((rows, ranks), np.int64)),
            axis=1,
        )
        group = np.concatenate(
            (number, np.where(self.beyond > 0, last, ranks), np.where(fill, last, ranks)), axis=1
        )
        top = int(grades.max()) + 1
        order = np.argsort(group * top + (top - grades if best else grades), axis=1, kind="stable")
        return np.take_along_axis(grades, order, axis=1)[:, :ranks]


def _expected_ndcg(ties: TiedRanking, k: int) -> Float[HostArray, " Q"]:
    """Mean of `ranking.ndcg` over all orders, as the functions below are of the others."""
    _, size, gain, _ = ties.groups(k)
    return metrics.over(metrics.discounted(gain / size, k), metrics.ideal(ties.judged, k))


def _expected_accuracy(ties: TiedRanking, k: int) -> Float[HostArray, " Q"]:
    return np.where(metrics.relevant(ties.judged) > 0, 1 - _none_relevant(ties, k)[:, -1], np.nan)


def _expected_mrr(ties: TiedRanking, k: int) -> Float[HostArray, " Q"]:
    none = _none_relevant(ties, k)
    earlier = np.concatenate((np.ones((len(none), 1)), none[:, :-1]), axis=1)
    value = ((earlier - none) / (1.0 + np.arange(none.shape[1]))).sum(axis=1)
    return np.where(metrics.relevant(ties.judged) > 0, value, np.nan)


def _expected_map(ties: TiedRanking, k: int) -> Float[HostArray, " Q"]:
    start, size, _, hits = ties.groups(k)
    ranks = 1.0 + np.arange(size.shape[1])
    others = (ranks - 1 - start) * (hits - 1).clip(min=0) / (size - 1).clip(min=1)
    precision = hits / size * (ties.hits_before(hits, size) + 1 + others) / ranks
    return metrics.over(precision.sum(axis=1), metrics.relevant(ties.judged))


def _expected_recall(ties: TiedRanking, k: int) -> Float[HostArray, " Q"]:
    _, size, _, hits = ties.groups(k)
    return metrics.over((hits / size).sum(axis=1), metrics.relevant(ties.judged))


def _none_relevant(ties: TiedRanking, k: int) -> Float[HostArray, "Q R"]:
    """How likely no relevant document is among the first ranks, rank by rank."""
    start, size, _, hits = ties.groups(k)
    place = np.arange(size.shape[1]) - start
    return np.cumprod((1 - hits / (size - place)).clip(min=0), axis=1)


class Metric(NamedTuple):
    """Its title in tables; from (grades, judged, k) its value for each query, as `ranking.ndcg`;
    from (ties, k) the mean of that over all orders of equal scores."""

    title: str
    function: Callable[[HostArray, HostArray, int], HostArray]
    expected: Callable[[TiedRanking, int], HostArray]


METRICS = {
    "ndcg": Metric("nDCG", metrics.ndcg, _expected_ndcg),
    "accuracy": Metric("accuracy", metrics.accuracy, _expected_accuracy),
    "mrr": Metric("MRR", metrics.reciprocal_rank, _expected_mrr),
    "map": Metric("MAP", metrics.average_precision, _expected_map),
    "recall": Metric("recall", metrics.recall, _expected_recall),
}
"""By the name that scores have before their @k."""
