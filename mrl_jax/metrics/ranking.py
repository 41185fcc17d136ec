"""Ranking and classification metrics; numpy only, float64.

Ranking metrics read grades in ranked order; `mrl_jax.evaluation` makes those lists and
decides ties, and `mrl_jax.metrics.ties` averages over them. Definitions are those of
trec_eval: the gain is the grade, the discount is log2(rank + 1), a grade above 0 is relevant.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.core.extras import require


@checked
def ndcg(
    grades: Int[HostArray, "Q R"], judged: Int[HostArray, "Q J"], k: int
) -> Float[HostArray, " Q"]:
    """Normalised discounted cumulative gain at k of each query.

    Args:
        grades: grade of the document at each rank, best first; 0 where irrelevant or
            where the list has ended.
        judged: grades of all judged documents, in any order, filled with zeros.
        k: ranks that count.

    Returns:
        0 to 1; NaN for a query without a relevant document, which has no ideal.

    References:
        Järvelin and Kekäläinen, 2002; trec_eval's `ndcg_cut`.
    """
    check_k(k)
    return over(discounted(grades, k), ideal(judged, k))


@checked
def accuracy(
    grades: Int[HostArray, "Q R"], judged: Int[HostArray, "Q J"], k: int
) -> Float[HostArray, " Q"]:
    """1 where a relevant document is among the first k, else 0 (trec_eval's `success`); NaN
    without one."""
    check_k(k)
    hits = (grades[:, :k] > 0).any(axis=1).astype(np.float64)
    return np.where(relevant(judged) > 0, hits, np.nan)


@checked
def reciprocal_rank(
    grades: Int[HostArray, "Q R"], judged: Int[HostArray, "Q J"], k: int
) -> Float[HostArray, " Q"]:
    """1 / rank of the first relevant document among the first k, else 0; NaN without one."""
    check_k(k)
    hits = grades[:, :k] > 0
    first = 1.0 / (1.0 + np.argmax(hits, axis=1))
    reciprocal = np.where(hits.any(axis=1), first, 0.0)
    return np.where(relevant(judged) > 0, reciprocal, np.nan)


@checked
def recall(
    grades: Int[HostArray, "Q R"], judged: Int[HostArray, "Q J"], k: int
) -> Float[HostArray, " Q"]:
    """Fraction of a query's relevant documents that are among the first k; NaN without one."""
    check_k(k)
    return over((grades[:, :k] > 0).sum(axis=1).astype(np.float64), relevant(judged))


@checked
def average_precision(
    grades: Int[HostArray, "Q R"], judged: Int[HostArray, "Q J"], k: int
) -> Float[HostArray, " Q"]:
    """Precision at the rank of each relevant document among the first k, averaged over all
    relevant documents of the query, retrieved or not; NaN without one. Its mean is MAP.

    References:
        trec_eval's `map_cut`. (Others divide by k where a query has more relevant documents.)
    """
    check_k(k)
    hits = (grades[:, :k] > 0).astype(np.float64)
    precision = np.cumsum(hits, axis=1) / (1.0 + np.arange(hits.shape[1]))
    return over((precision * hits).sum(axis=1), relevant(judged))


@checked
def chance_ndcg(
    judged: Int[HostArray, "Q J"],
    documents: PositiveInt,
    k: int,
    *,
    there: Int[HostArray, "Q X"] | None = None,
) -> float:
    """Mean nDCG at k of a random order of `documents` documents, exactly.

    By linearity each rank holds each grade with probability 1 / documents. `there` are the
    grades of the judged documents that are among these, where not all are.
    """
    check_k(k)
    ranked = judged if there is None else there
    expected = ranked.clip(min=0).sum(axis=1) / documents * discounts(min(k, documents)).sum()
    scores = over(expected, ideal(judged, k))
    return float(np.mean(scores[~np.isnan(scores)])) if (scores >= 0).any() else float("nan")


@checked
def discounted(gains: Int[HostArray, "Q R"] | Float[HostArray, "Q R"], k: int) -> HostArray:
    """[Q] sum of the first k gains, each over log2(rank + 1)."""
    cut = gains[:, :k].clip(min=0).astype(np.float64)
    return cut @ discounts(cut.shape[1])


def discounts(k: int) -> Float[HostArray, " R"]:
    """1 / log2(rank + 1) of the first k ranks."""
    return 1.0 / np.log2(np.arange(k, dtype=np.float64) + 2.0)


@checked
def ideal(judged: Int[HostArray, "Q J"], k: int) -> Float[HostArray, " Q"]:
    """Discounted gain of the best order there is."""
    return discounted(-np.sort(-judged, axis=1), k)


@checked
def relevant(judged: Int[HostArray, "Q J"]) -> Float[HostArray, " Q"]:
    """Relevant documents of each query."""
    return (judged > 0).sum(axis=1).astype(np.float64)


@checked
def over(gain: Float[HostArray, " Q"], best: Float[HostArray, " Q"]) -> Float[HostArray, " Q"]:
    """`gain` / `best`, NaN where there is nothing to gain."""
    return np.divide(gain, best, out=np.full(len(gain), np.nan), where=best > 0)


def check_k(k: int) -> None:
    if k < 1:
        raise ArgumentError(f"k is {k}, expected 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1:
    """Harmonic means of precision and recall; `weighted` by how often each label is true."""

    macro: float
    weighted: float


@checked
def f1_scores(truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> F1:
    """Means over labels of their F1, as scikit-learn defines them.

    A label that is neither true nor predicted anywhere has 0.

    Args:
        truth, predicted: label of each example.
        labels: those that count, each once.

    Raises:
        MrlError: scikit-learn is not installed.
    """
    if len(truth) != len(predicted):
        raise ArgumentError(f"{len(truth)} true labels and {len(predicted)} predicted")
    if not labels or len(set(labels)) != len(labels):
        raise ArgumentError("labels are none, or one is there twice")
    if not truth:
        return F1(macro=0.0, weighted=0.0)
    require("sklearn", by="F1")
    from sklearn.metrics import precision_recall_fscore_support

    _, _, scores, support = precision_recall_fscore_support(
        truth,
        predicted,
        labels=labels,
        zero_division=0,  # pyright: ignore[reportArgumentType] - its default is a string
    )
    scores, support = np.asarray(scores), np.asarray(support, np.float64)
    total = support.sum()
    return F1(
        macro=float(scores.mean()),
        weighted=float(scores @ support / total) if total else 0.0,
    )
