"""Exact search: the best documents of each query, found on the device, chunk by chunk.

A first look in bfloat16, where there are queries enough to pay for it, finds the best blocks of
documents; what they hold is scored in float32, and the few that are left once more on the host,
each pair by the same sum in float64. How far a look may be off is bounded, and a query for
which that leaves a doubt is searched again, in float32 and then in float64. So a score depends
on the two vectors alone: equal documents have equal scores wherever they stand, and no chunk,
batch or device changes a result.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.search.vectors import SeparateVectors

BLOCK = 16
"""Documents whose best score stands for all of them at first; and blocks of a group."""


STEP = 4096
"""Documents whose scores for all queries stay in the cache until they are reduced."""


SPAN = 1 << 20
"""Documents whose blocks are kept until the best are chosen."""


ROWS = 1024
"""Queries that are searched at once."""


SPARE = 22
"""Candidates beyond k, so that rounding on the device seldom costs a second look."""


HALF = 32
"""Queries from which on a first look in bfloat16 takes less time than one in float32."""


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
    chunk: int = 16_384,
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
    chunk: int = 16_384,
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
    parts = [
        _rank_rows(queries[start : start + ROWS], documents, k, chunk, devices)
        for start in range(0, len(queries), ROWS)
    ]
    if not parts:
        none = np.zeros((0, k), np.float32)
        return Ranking(none, none.astype(np.int64), np.zeros(0, np.int64))
    return Ranking(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def rough_search(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: int,
    *,
    chunk: int = 16_384,
) -> tuple[Float32[HostArray, "Q k"], Int[HostArray, "Q k"]]:
    """`search` without the last, exact scoring: for lists that are scored again anyway.

    Which of two documents comes first, or comes last and falls out, is left to the rounding
    of the device where their scores are within it.
    """
    k, devices = min(k, len(documents)), jax.local_devices()
    scores, indices = np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
    for start in range(0, len(queries), ROWS):
        some = slice(start, start + ROWS)
        wanted = min(k + SPARE, len(documents))
        found = _candidates(queries[some], documents, wanted, chunk, devices)
        scores[some], indices[some] = found.scores[:, :k], found.indices[:, :k]
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


def truncate(
    vectors: Float32[HostArray, "R E"] | SeparateVectors, dim: int | None
) -> Float32[HostArray, "R P"]:
    """The first `dim` coordinates of each row, all of them for None, at unit length.

    Of separate vectors those of that dim; for None those of the widest.
    """
    cut = vectors.at(dim) if isinstance(vectors, SeparateVectors) else vectors[:, :dim]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.float32(1e-12))


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """Documents that may be among the best.

    Attributes:
        scores: in float32, best first.
        indices: into the documents.
        others: no other document has a score above this.
    """

    scores: Float32[HostArray, "Q C"]
    indices: Int[HostArray, "Q C"]
    others: Float32[HostArray, " Q"]


def _rank_rows(
    queries: HostArray, documents: HostArray, k: int, chunk: int, devices: Sequence[Any]
) -> tuple[HostArray, HostArray, HostArray]:
    """Scores, places and ties of some queries; again where a look left a doubt."""
    wanted = min(k + SPARE, len(documents))
    half = len(queries) >= HALF
    found = _candidates(queries, documents, wanted, chunk, devices, half=half)
    scores, places, tied, doubtful = _settle(queries, documents, k, found)
    if half and len(doubtful):
        found = _candidates(queries[doubtful], documents, wanted, chunk, devices, half=False)
        closer = _settle(queries[doubtful], documents, k, found)
        scores[doubtful], places[doubtful], tied[doubtful], still = closer
        doubtful = doubtful[still]
    for row in doubtful:
        every = _every_score(queries[row], documents)
        kth = -np.partition(-every, k - 1)[k - 1]
        above, equal = np.flatnonzero(every > kth), np.flatnonzero(every == kth)
        above = above[np.argsort(-every[above], kind="stable")]
        places[row] = np.concatenate((above, equal))[:k]
        scores[row] = every[places[row]]
        tied[row] = len(above) + len(equal) - k
    return scores, places, tied


def _candidates(
    queries: HostArray,
    documents: HostArray,
    wanted: int,
    chunk: int,
    devices: Sequence[Any],
    *,
    half: bool | None = None,
) -> _Candidates:
    """The best `wanted` of each span of documents, and of all spans together."""
    half = len(queries) >= HALF if half is None else half
    rows = np.arange(len(queries))[:, None]
    scores, indices = (np.zeros((len(queries), 0), t) for t in (np.float32, np.int64))
    others = np.full(len(queries), -np.inf, np.float32)
    for blocks, groups, starts, stops, longest in _spans(queries, documents, chunk, devices, half):
        some, unseen = _best_blocks(blocks, groups, wanted)
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1) * longest
        # Twice the bound on the rounding of a sum of E products, in whatever order.
        slack = (queries.shape[1] + 8) * 2.0**-23 * lengths
        # Both sides are rounded to the eight bits of bfloat16.
        first = slack + (2.0**-8 + 2.0**-18) * lengths if half else slack
        places = starts[some][:, :, None] + np.arange(BLOCK)
        held = places < stops[some][:, :, None]
        places, held = places.reshape(len(queries), -1), held.reshape(len(queries), -1)
        rough = _score_some(queries, documents, np.where(held, places, 0))
        scores = np.concatenate((scores, np.where(held, rough, -np.inf)), axis=1)
        indices = np.concatenate((indices, places), axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        dropped = scores[rows, order[:, wanted : wanted + 1]]
        scores, indices = (x[rows, order[:, :wanted]] for x in (scores, indices))
        bounds = [others, unseen + first, *(dropped + slack[:, None]).T]
        others = np.max(np.stack(bounds), axis=0).astype(np.float32)
    return _Candidates(scores, indices, np.nextafter(others, np.float32(np.inf)))


def _spans(
    queries: HostArray, documents: HostArray, chunk: int, devices: Sequence[Any], half: bool
) -> Iterator[tuple[HostArray, HostArray, HostArray, HostArray, float]]:
    """Of each span: the best scores of blocks and of groups, where blocks begin, and may end.

    And the length of the longest document.
    """
    asked = queries.astype(jnp.bfloat16) if half else queries
    copies = [jax.device_put(asked, device) for device in devices]
    running: list[tuple[int, tuple[Array, Array, Array]]] = []
    for turn, start in enumerate(range(0, len(documents), chunk)):
        part = documents[start : start + chunk]
        device = turn % len(devices)
        running.append((start, _best(copies[device], jax.device_put(part, devices[device]))))
        # Two at once would push each other's scores out of the cache, or fill the device.
        if len(running) >= len(devices):
            jax.block_until_ready(running[-len(devices)][1])
        stop = start + len(part)
        if stop < len(documents) and len(running) * chunk < SPAN:
            continue
        found = [tuple(map(np.asarray, arrays)) for _, arrays in running]
        for (first, _), (*_, square) in zip(running, found, strict=True):
            if not np.isfinite(square):
                bad = ~np.isfinite(documents[first : first + chunk]).all(axis=1)
                raise _not_finite("document", first + int(np.argmax(bad)))
        starts = [
            first + BLOCK * np.arange(len(blocks))
            for (first, _), (blocks, *_) in zip(running, found, strict=True)
        ]
        stops = [
            np.full(len(blocks), min(first + chunk, stop))
            for (first, _), (blocks, *_) in zip(running, found, strict=True)
        ]
        blocks, groups = (np.concatenate([one[i] for one in found]) for i in (0, 1))
        longest = float(np.sqrt(max(float(square) for *_, square in found)))
        running.clear()
        yield blocks, groups, np.concatenate(starts), np.concatenate(stops), longest


def _best_blocks(blocks: HostArray, groups: HostArray, wanted: int) -> tuple[HostArray, HostArray]:
    """The places [Q, C] of the best blocks, and what no document of another scores more than.

    The best `wanted` groups hold the best `wanted` blocks, as each of them has one that is
    at least as good as all in the other groups.
    """
    rows = np.arange(blocks.shape[1])[:, None]
    best = _highest(groups.T, wanted)
    places = (best[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(len(rows), -1)
    inside = blocks[places, rows]
    chosen = _highest(inside, wanted)
    if chosen.shape[1] == len(blocks):
        return places[rows, chosen], np.full(len(rows), -np.inf, np.float32)
    return places[rows, chosen], inside[rows, chosen].min(axis=1)


def _highest(values: HostArray, count: int) -> HostArray:
    """Places of the `count` highest of each row, in any order."""
    if count >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(-values, count - 1, axis=1)[:, :count]


def _score_some(queries: HostArray, documents: HostArray, places: HostArray) -> HostArray:
    """Inner products [Q, C] in float32 of each query with documents of its own."""
    scores = np.empty(places.shape, np.float32)
    for row, query in enumerate(queries):
        np.matmul(documents[places[row]], query, out=scores[row])
    return scores


def _settle(
    queries: HostArray, documents: HostArray, k: int, found: _Candidates
) -> tuple[HostArray, HostArray, HostArray, HostArray]:
    """Scores, places and ties by exact scores, and the rows where others might still be above."""
    indices = np.sort(found.indices, axis=1)
    exact = np.zeros(indices.shape, np.float32)
    step = max(1, 2**22 // (indices.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        held = documents[indices[start : start + step]]
        asked = np.broadcast_to(queries[start : start + step, None], held.shape)
        exact[start : start + step] = exact_scores(asked, held)
    order = np.argsort(-exact, axis=1, kind="stable")
    exact, indices = (np.take_along_axis(x, order, axis=1) for x in (exact, indices))
    tied = (exact[:, k:] == exact[:, k - 1 : k]).sum(axis=1)
    doubtful = np.flatnonzero(found.others >= exact[:, k - 1])
    return exact[:, :k].copy(), indices[:, :k].copy(), tied, doubtful


def _every_score(query: HostArray, documents: HostArray) -> HostArray:
    parts = [
        exact_scores(np.broadcast_to(query, documents[i : i + 8192].shape), documents[i : i + 8192])
        for i in range(0, len(documents), 8192)
    ]
    return np.concatenate(parts)


@jax.jit
def _best(queries: Array, documents: Float32[Array, "N E"]) -> tuple[Array, Array, Array]:
    """The best score of each block and group [_, Q], and the longest document's squared length.

    Queries in bfloat16 meet documents in bfloat16, others in float32.
    """
    size = len(documents)
    square = jnp.max(jnp.sum(documents * documents, axis=1))
    group = BLOCK * BLOCK
    step = min(STEP, -(-size // group) * group)
    steps = -(-size // step)
    padded = jnp.pad(documents, ((0, steps * step - size), (0, 0)))

    asked = queries.T  # Before the loop: the product wants it so, and would turn it each time.

    def reduce(number: Array) -> tuple[Array, Array]:
        part = lax.dynamic_slice_in_dim(padded, number * step, step)
        if queries.dtype == jnp.bfloat16:
            half = part.astype(jnp.bfloat16)
            scores = jnp.matmul(half, asked, preferred_element_type=jnp.float32)
        else:
            scores = jnp.matmul(part, asked, precision=lax.Precision.HIGHEST)
        blocks = scores.reshape(step // BLOCK, BLOCK, -1).max(axis=1)
        # Rows of zeros that fill up a block may only make it look better than it is.
        filled = number * step + BLOCK * jnp.arange(step // BLOCK) >= size
        blocks = jnp.where(filled[:, None], -jnp.inf, blocks)
        return blocks, blocks.reshape(step // group, BLOCK, -1).max(axis=1)

    blocks, groups = lax.map(reduce, jnp.arange(steps))
    rows = len(queries)
    return blocks.reshape(-1, rows), groups.reshape(-1, rows), square


def _not_finite(kind: str, row: int) -> MrlError:
    return MrlError(
        f"the vector of {kind} {row} is not finite",
        hint="check the model's weights and the input: NaN and infinity cannot be ranked",
    )
