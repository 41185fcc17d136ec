"""Pairs among vectors of two sides by margin scores, and hard negatives.

The margin of a pair is its cosine over the mean cosine of both to their k nearest neighbours
(Artetxe and Schwenk, 2019, arXiv 1811.01136, "ratio"): a text that is near to everything is near
to nothing in particular.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.inference.search.exact import search

_LEAST_MEAN = 0.05
"""Below it a ratio says nothing: neighbours at right angles would make every margin huge."""


@dataclasses.dataclass(frozen=True)
class MarginPairs:
    """One-to-one pairs, the highest margin first.

    Attributes:
        first, second: rows of the two sides; each is there once at most.
        margins: of each pair.
        cosines: of each pair.
    """

    first: Int[HostArray, " P"]
    second: Int[HostArray, " P"]
    margins: Float32[HostArray, " P"]
    cosines: Float32[HostArray, " P"]


@checked
def margin_pairs(
    first: Float32[HostArray, "N E"], second: Float32[HostArray, "M E"], *, k: PositiveInt = 4
) -> MarginPairs:
    """The pairs that are each other's choice in turn, from the highest margin down.

    Candidates are the k nearest of each row, searched exactly in both directions; a pair is taken
    where neither row is in a better one ("max. score" with each row used once).

    Args:
        first, second: unit vectors.
        k: neighbours of a row.
    """
    if not len(first) or not len(second):
        none = np.zeros(0, np.int64)
        return MarginPairs(none, none, np.zeros(0, np.float32), np.zeros(0, np.float32))
    forward, there = search(first, second, k)
    backward, back = search(second, first, k)
    mean_first, mean_second = forward.mean(axis=1), backward.mean(axis=1)
    rows = np.repeat(np.arange(len(first)), there.shape[1])
    others = np.repeat(np.arange(len(second)), back.shape[1])
    pairs = np.concatenate(
        (np.stack((rows, there.ravel())), np.stack((back.ravel(), others))), axis=1
    )
    cosines = np.concatenate((forward.ravel(), backward.ravel()))
    pairs, places = np.unique(pairs, axis=1, return_index=True)
    cosines = cosines[places]
    means = (mean_first[pairs[0]] + mean_second[pairs[1]]) / 2
    margins = cosines / np.maximum(means, _LEAST_MEAN)
    order = np.argsort(-margins, kind="stable")
    chosen = order[_greedy(pairs[:, order], len(first), len(second))]
    return MarginPairs(
        pairs[0, chosen],
        pairs[1, chosen],
        margins[chosen].astype(np.float32),
        cosines[chosen].astype(np.float32),
    )


def _greedy(pairs: HostArray, firsts: int, seconds: int) -> Bool[HostArray, " P"]:
    """Which pairs, taken in their order, find both rows free."""
    taken_first, taken_second = np.zeros(firsts, bool), np.zeros(seconds, bool)
    chosen = np.zeros(pairs.shape[1], bool)
    for place, (one, other) in enumerate(pairs.T):
        if not taken_first[one] and not taken_second[other]:
            taken_first[one] = taken_second[other] = chosen[place] = True
    return chosen


@checked
def hard_negatives(
    documents: Float32[HostArray, "N E"],
    identities: Sequence[str],
    *,
    count: PositiveInt = 5,
    max_cosine: float = 0.95,
) -> list[list[int]]:
    """Rows of the nearest other documents of each document, the nearest first.

    Args:
        documents: unit vectors of the frozen text tower.
        identities: of each document; one of the same identity is never a negative.
        count: of a document's negatives, or fewer where there are no more.
        max_cosine: nearer documents are taken for the same in other words.
    """
    if not len(documents):
        return []
    _, numbers = np.unique(np.asarray(identities), return_inverse=True)
    rows: list[list[int]] = [[] for _ in documents]
    waiting, k = np.arange(len(documents)), min(2 * count + 8, len(documents))
    while len(waiting):
        scores, indices = search(documents[waiting], documents, k)
        left = []
        for row, own, near in zip(waiting, scores, indices, strict=True):
            others = near[(numbers[near] != numbers[row]) & (own <= max_cosine)]
            _, first = np.unique(numbers[others], return_index=True)
            rows[row] = others[np.sort(first)][:count].tolist()
            if len(rows[row]) < count and k < len(documents):
                left.append(row)
        waiting, k = np.asarray(left, np.int64), min(4 * k, len(documents))
    return rows
