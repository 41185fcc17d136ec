"""Ranking metrics over lists of relevance grades; numpy only, float64.

Everything here reads grades in ranked order; `mrl_jax.evaluation` makes those lists and
decides ties. Definitions are those of trec_eval: the gain is the grade, the discount is
log2(rank + 1).
"""

import numpy as np

from mrl_jax.array_types import Float, HostArray, Int


def ndcg(
    grades: Int[HostArray, "Q R"], judged: Int[HostArray, "Q J"], k: int
) -> Float[HostArray, " Q"]:
    """Normalised discounted cumulative gain at k of each query.

    Args:
        grades: grade of the document at each rank, best first; 0 where irrelevant or
            where the list has ended.
        judged: the grades of all judged documents of each query, in any order, filled
            with zeros; what an ideal list would hold.
        k: ranks that count.

    Returns:
        0 to 1; NaN for a query without a relevant document, which has no ideal.

    References:
        Järvelin and Kekäläinen, 2002; trec_eval's `ndcg_cut`.
    """
    _check(k)
    ideal = -np.sort(-judged, axis=1)
    found, best = _discounted(grades, k), _discounted(ideal, k)
    return np.divide(found, best, out=np.full(len(found), np.nan), where=best > 0)


def accuracy(
    grades: Int[HostArray, "Q R"], judged: Int[HostArray, "Q J"], k: int
) -> Float[HostArray, " Q"]:
    """1 where a relevant document is among the first k, 0 elsewhere; NaN without one."""
    _check(k)
    found = (grades[:, :k] > 0).any(axis=1).astype(np.float64)
    return np.where((judged > 0).any(axis=1), found, np.nan)


def reciprocal_rank(
    grades: Int[HostArray, "Q R"], judged: Int[HostArray, "Q J"], k: int
) -> Float[HostArray, " Q"]:
    """1 / rank of the first relevant document among the first k, else 0; NaN without one."""
    _check(k)
    relevant = grades[:, :k] > 0
    first = 1.0 / (1.0 + np.argmax(relevant, axis=1))
    found = np.where(relevant.any(axis=1), first, 0.0)
    return np.where((judged > 0).any(axis=1), found, np.nan)


def chance_ndcg(judged: Int[HostArray, "Q J"], documents: int, k: int) -> float:
    """Mean nDCG at k of a random order of `documents` documents, exactly.

    By linearity each rank holds each grade with probability 1 / documents.
    """
    _check(k)
    discounts = _discounts(min(k, documents)).sum()
    expected = judged.clip(min=0).sum(axis=1) / documents * discounts
    best = _discounted(-np.sort(-judged, axis=1), k)
    with_relevant = best > 0
    if not with_relevant.any():
        return float("nan")
    return float(np.mean(expected[with_relevant] / best[with_relevant]))


def _discounted(grades: Int[HostArray, "Q R"], k: int) -> Float[HostArray, " Q"]:
    cut = grades[:, :k].clip(min=0).astype(np.float64)
    return cut @ _discounts(cut.shape[1])


def _discounts(k: int) -> Float[HostArray, " R"]:
    return 1.0 / np.log2(np.arange(k, dtype=np.float64) + 2.0)


def _check(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}, expected 1 or more")
