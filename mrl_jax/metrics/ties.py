"""Ranking metrics where documents of equal score may stand in any order.

A ranking is groups of documents with the same score. Every order inside the groups is as
good as any other, so a metric has a mean over all orders, a best and a worst; all three are
computed exactly, by formulas over groups.

References:
    McSherry and Najork, 2008, Computing information retrieval performance measures
    efficiently in the presence of tied scores.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.metrics import ranking as metrics

METRICS = {
    "ndcg": metrics.ndcg,
    "accuracy": metrics.accuracy,
    "mrr": metrics.reciprocal_rank,
    "map": metrics.average_precision,
    "recall": metrics.recall,
}


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
        """Mean of a metric ("ndcg", "accuracy", "mrr", "map", "recall") over all orders."""
        metrics.check_k(k)
        ranks = 1.0 + np.arange(min(k, self.grades.shape[1]))
        cut = slice(len(ranks))
        start, size, gain, hits = (x[:, cut] for x in self._groups())
        place, share = ranks - 1 - start, hits / size
        if metric == "ndcg":
            return metrics.over(metrics.discounted(gain / size, k), metrics.ideal(self.judged, k))
        total = metrics.relevant(self.judged)
        if metric == "recall":
            return metrics.over(share.sum(axis=1), total)
        if metric == "map":
            before = self._hits_before(hits, size)[:, cut]
            others = place * (hits - 1).clip(min=0) / (size - 1).clip(min=1)
            return metrics.over((share * (before + 1 + others) / ranks).sum(axis=1), total)
        # How likely no relevant document is among the first ranks, rank by rank.
        none = np.cumprod((1 - hits / (size - place)).clip(min=0), axis=1)
        if metric == "accuracy":
            value = 1 - none[:, -1]
        elif metric == "mrr":
            earlier = np.concatenate((np.ones((len(none), 1)), none[:, :-1]), axis=1)
            value = ((earlier - none) / ranks).sum(axis=1)
        else:
            raise ValueError(f"there is no metric {metric!r}, only {', '.join(METRICS)}")
        return np.where(total > 0, value, np.nan)

    def best(self, metric: str, k: int) -> Float[HostArray, " Q"]:
        """A metric of the order in which it is highest."""
        return METRICS[metric](self._ordered(best=True), self.judged, k)

    def worst(self, metric: str, k: int) -> Float[HostArray, " Q"]:
        """A metric of the order in which it is lowest."""
        return METRICS[metric](self._ordered(best=False), self.judged, k)

    def _numbers(self) -> Int[HostArray, "Q R"]:
        """Number of each rank's group, from 0."""
        new = self.scores[:, 1:] != self.scores[:, :-1]
        return np.cumsum(np.pad(new, ((0, 0), (1, 0))), axis=1)

    def _groups(self) -> tuple[HostArray, HostArray, HostArray, HostArray]:
        """Of each rank's group: ranks before it, documents, summed grades, relevant ones."""
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
        return start, size, gain, hits

    def _hits_before(self, hits: HostArray, size: HostArray) -> Float[HostArray, "Q R"]:
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
