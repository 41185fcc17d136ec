"""Exact search: the best documents of each query, found on the device, chunk by chunk.

The device finds candidates in float32; the few that are left are scored again on the host,
each pair by the same sum in float64. So a score depends on the two vectors alone: equal
documents have equal scores wherever they stand, and no chunk, batch or device changes a
result.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mrl_jax.array_types import Array, Float32, HostArray, Int
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.vectors import SeparateVectors

BLOCK = 64
"""Documents whose best score stands for all of them at first."""
ROWS = 1024
"""Queries that are searched at once."""
SPARE = 16
"""Candidates beyond k, so that rounding on the device seldom costs a second look."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The best documents of each query.

    Attributes:
        scores: best first.
        indices: into the documents; of equal scores the lowest first.
        tied: documents behind the k-th that have the same score.
    """

    scores: Float32[HostArray, "Q k"]
    indices: Int[HostArray, "Q k"]
    tied: Int[HostArray, " Q"]


def search(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: int,
    *,
    chunk: int = 65_536,
) -> tuple[Float32[HostArray, "Q k"], Int[HostArray, "Q k"]]:
    """The k best documents of each query by inner product, best first.

    Equal scores are told in the order of the documents, lowest index first, so the
    caller's order of the corpus is the rule for ties.

    Args:
        queries: unit vectors.
        documents: unit vectors.
        k: documents a query; at most N are given.
        chunk: documents that are scored at once; the result does not depend on it.

    Returns:
        scores and document indices, both [Q, min(k, N)].

    Raises:
        MrlError: a vector that is not finite.
    """
    found = rank(queries, documents, k, chunk=chunk)
    return found.scores, found.indices


def rank(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: int,
    *,
    chunk: int = 65_536,
    devices: Sequence[Any] | None = None,
) -> Ranking:
    """`search`, and how many more documents are tied with the last one found.

    Args:
        queries, documents, k, chunk: as in `search`.
        devices: chunks go to them in turn; all local ones by default.
    """
    if not len(documents):
        raise ValueError("there are no documents to search")
    if k < 1 or chunk < 1:
        raise ValueError(f"k is {k} and chunk is {chunk}, expected 1 or more")
    k = min(k, len(documents))
    devices = jax.local_devices() if devices is None else devices
    if not np.isfinite(queries).all():
        raise _not_finite("query", int(np.argmin(np.isfinite(queries).all(axis=1))))
    parts = []
    for start in range(0, len(queries), ROWS):
        some = queries[start : start + ROWS]
        found = _candidates(some, documents, min(k + SPARE, len(documents)), chunk, devices)
        parts.append(_settle(some, documents, k, *found))
    if not parts:
        none = np.zeros((0, k), np.float32)
        return Ranking(none, none.astype(np.int64), np.zeros(0, np.int64))
    return Ranking(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def rough_search(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: int,
    *,
    chunk: int = 65_536,
) -> tuple[Float32[HostArray, "Q k"], Int[HostArray, "Q k"]]:
    """`search` without the second, exact scoring: for lists that are scored again anyway.

    Which of two documents comes first, or comes last and falls out, is left to the rounding
    of the device where their scores are within it.
    """
    k, devices = min(k, len(documents)), jax.local_devices()
    found = [
        _candidates(queries[start : start + ROWS], documents, k, chunk, devices)[:2]
        for start in range(0, len(queries), ROWS)
    ]
    none = np.zeros((0, k), np.float32)
    found.append((none, none.astype(np.int64)))  # There may be no queries.
    scores, indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, indices


def exact_scores(
    queries: Float32[HostArray, "*rows E"], documents: Float32[HostArray, "*rows E"]
) -> Float32[HostArray, "*rows"]:
    """Inner product of each query with its document, as `rank` scores them."""
    return _exact_sums(queries, documents).astype(np.float32)


def _exact_sums(queries: HostArray, documents: HostArray) -> HostArray:
    # A plain sum of the last axis has one order, that of its length; a matrix product has many.
    # And only where that axis is contiguous: products of broadcast rows would not be.
    return np.multiply(queries, documents, dtype=np.float64, order="C").sum(axis=-1)


def unit_prefix(
    vectors: Float32[HostArray, "R E"] | SeparateVectors, dim: int | None
) -> Float32[HostArray, "R P"]:
    """The first `dim` coordinates of each row, all of them for None, at unit length.

    Of separate vectors those of that dim; for None those of the widest.
    """
    cut = vectors.at(dim) if isinstance(vectors, SeparateVectors) else vectors[:, :dim]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.float32(1e-12))


def _candidates(
    queries: HostArray, documents: HostArray, wanted: int, chunk: int, devices: Sequence[Any]
) -> tuple[HostArray, HostArray, float]:
    """Approximate scores and indices of the first `wanted`, and the longest document."""
    copies = [jax.device_put(queries, device) for device in devices]
    running: collections.deque[tuple[int, tuple[Array, Array, Array]]] = collections.deque()
    scores, indices = (np.zeros((len(queries), 0), t) for t in (np.float32, np.int64))
    longest = 0.0

    def collect() -> None:
        nonlocal scores, indices, longest
        start, (more, places, square) = running.popleft()
        if not np.isfinite(square):
            bad = ~np.isfinite(documents[start : start + chunk]).all(axis=1)
            raise _not_finite("document", start + int(np.argmax(bad)))
        longest = max(longest, float(np.sqrt(square)))
        scores = np.concatenate((scores, np.asarray(more)), axis=1)
        indices = np.concatenate((indices, np.asarray(places, np.int64) + start), axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
        scores, indices = (np.take_along_axis(x, order, axis=1) for x in (scores, indices))

    for turn, start in enumerate(range(0, len(documents), chunk)):
        part = documents[start : start + chunk]
        device = turn % len(devices)
        part = jax.device_put(part, devices[device])
        running.append((start, _top(copies[device], part, min(wanted, len(part)))))
        if len(running) >= len(devices):
            collect()
    while running:
        collect()
    return scores, indices, longest


def _settle(
    queries: HostArray,
    documents: HostArray,
    k: int,
    rough: HostArray,
    indices: HostArray,
    longest: float,
) -> tuple[HostArray, HostArray, HostArray]:
    """Order candidates by their exact scores; look at every document where that may not do."""
    indices = np.sort(indices, axis=1)
    exact = np.zeros(indices.shape, np.float32)
    step = max(1, 2**22 // (indices.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        found = documents[indices[start : start + step]]
        asked = np.broadcast_to(queries[start : start + step, None], found.shape)
        exact[start : start + step] = exact_scores(asked, found)
    order = np.argsort(-exact, axis=1, kind="stable")
    exact, indices = (np.take_along_axis(x, order, axis=1) for x in (exact, indices))
    # Twice the bound on the rounding of a sum of E products, in whatever order.
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1) * longest
    slack = (queries.shape[1] + 8) * 2.0**-23 * lengths
    tied = (exact[:, k:] == exact[:, k - 1 : k]).sum(axis=1)
    scores, places = exact[:, :k].copy(), indices[:, :k].copy()
    if indices.shape[1] < len(documents):
        for row in np.flatnonzero(rough.min(axis=1) + slack >= exact[:, k - 1]):
            every = _every_score(queries[row], documents)
            kth = -np.partition(-every, k - 1)[k - 1]
            above = np.flatnonzero(every > kth)
            equal = np.flatnonzero(every == kth)
            above = above[np.argsort(-every[above], kind="stable")]
            places[row] = np.concatenate((above, equal))[:k]
            scores[row] = every[places[row]]
            tied[row] = len(above) + len(equal) - k
    return scores, places, tied


def _every_score(query: HostArray, documents: HostArray) -> HostArray:
    parts = [
        exact_scores(np.broadcast_to(query, documents[i : i + 8192].shape), documents[i : i + 8192])
        for i in range(0, len(documents), 8192)
    ]
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnames="k")
def _top(
    queries: Float32[Array, "Q E"], documents: Float32[Array, "N E"], k: int
) -> tuple[Array, Array, Array]:
    """The k best scores, their places, and the squared length of the longest document.

    The best of each block of documents is found first. The k best blocks, the earlier one on
    ties, hold the k best documents: each block before another has one that comes before all
    of the other's.
    """
    square = jnp.max(jnp.sum(documents * documents, axis=1))
    scores = jnp.matmul(queries, documents.T, precision=lax.Precision.HIGHEST)
    rows, size = scores.shape
    blocks = -(-size // BLOCK)
    if blocks <= k:
        return *lax.top_k(scores, k), square
    if size % BLOCK:
        fill = blocks * BLOCK - size
        scores = jnp.pad(scores, ((0, 0), (0, fill)), constant_values=-jnp.inf)
    scores = scores.reshape(rows, blocks, BLOCK)
    _, winners = lax.top_k(jnp.max(scores, axis=2), k)
    winners = jnp.sort(winners, axis=1)
    inside = jnp.take_along_axis(scores, winners[:, :, None], axis=1).reshape(rows, k * BLOCK)
    top, places = lax.top_k(inside, k)
    block = jnp.take_along_axis(winners, places // BLOCK, axis=1)
    return top, block * BLOCK + places % BLOCK, square


def _not_finite(kind: str, row: int) -> MrlError:
    return MrlError(
        f"the vector of {kind} {row} is not finite",
        mend="check the model's weights and the input: NaN and infinity cannot be ranked",
    )
