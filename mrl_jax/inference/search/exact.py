"""Exact search: the best documents of each query, found on the device, chunk by chunk.

A first pass in bfloat16, where there are queries enough to pay for it, finds the best blocks of
documents; the documents in them are scored in float32, and the few that are left once more on the
host, each pair by the same sum in float64. The rounding error of each pass is bounded, and a query
whose result lies within that bound is searched again, in float32 and then in float64. So a score
depends on the two vectors alone: equal documents have equal scores wherever they stand, and no
chunk, batch or device changes a result.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Float64, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.inference.search.vectors import SeparateVectors

BLOCK = 16
"""Documents of which the first pass keeps the best score only; and blocks of a group."""
STEP = 4096
"""Documents whose scores for all queries stay in the cache until they are reduced."""
SPARE = 22
"""Candidates beyond k, so that rounding on the device seldom costs a second pass."""
CHUNK = 16_384
"""Documents that are scored at once."""
Pass = Literal["bfloat16", "float32", "float64"]


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a search does at once: for its speed and memory, without effect on the result.

    Attributes:
        queries: that are searched at once.
        span: documents whose blocks are kept until the best are chosen.
        half: queries from which on a first pass in bfloat16 is faster than one in float32.
    """

    queries: int = 1024
    span: int = 1 << 20
    half: int = 32


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


@checked
def search(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: int,
    *,
    chunk: int = CHUNK,
) -> tuple[Float32[HostArray, "Q k"], Int[HostArray, "Q k"]]:
    """The k best documents of each query by inner product, best first.

    Documents of equal scores are in the order of their indices, lowest first.

    Args:
        queries, documents: unit vectors.
        k: documents a query.
        chunk: documents that are scored at once; the result does not depend on it.

    Returns:
        scores and document indices, both [Q, min(k, N)].

    Raises:
        MrlError: a vector that is not finite.
    """
    ranking = rank(queries, documents, k, chunk=chunk)
    return ranking.scores, ranking.indices


@checked
def rank(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: int,
    *,
    chunk: int = CHUNK,
    devices: Sequence[Any] | None = None,
    sizes: Sizes = Sizes(),
    on_pass: Callable[[Pass, int], None] | None = None,
) -> Ranking:
    """`search`, and how many more documents are tied with the last one of the result.

    Args:
        queries, documents, k, chunk: as in `search`.
        devices: chunks go to them in turn; all local ones by default.
        sizes: of what is done at once.
        on_pass: called with the precision of each pass over the documents, and its number of
            queries.
    """
    if not len(documents):
        raise ArgumentError("there are no documents to search")
    if k < 1 or chunk < 1:
        raise ArgumentError(f"k is {k} and chunk is {chunk}, expected 1 or more")
    k = min(k, len(documents))
    devices = jax.local_devices() if devices is None else devices
    if not np.isfinite(queries).all():
        raise _not_finite("query", int(np.argmin(np.isfinite(queries).all(axis=1))))
    scan = _Scan(documents, chunk, devices, sizes, on_pass or (lambda *_: None))
    parts = [
        _rank_rows(queries[start : start + sizes.queries], scan, k)
        for start in range(0, len(queries), sizes.queries)
    ]
    if not parts:
        none = np.zeros((0, k), np.float32)
        return Ranking(none, none.astype(np.int64), np.zeros(0, np.int64))
    return Ranking(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@checked
def rough_search(
    queries: Float32[HostArray, "Q E"], documents: Float32[HostArray, "N E"], k: int
) -> tuple[Float32[HostArray, "Q k"], Int[HostArray, "Q k"]]:
    """`search` without the last, exact scoring: for short lists that are scored again anyway.

    The order of two documents whose scores differ by less than the device's rounding is
    arbitrary, and so is which of them is the last of the list.
    """
    k, sizes = min(k, len(documents)), Sizes()
    scan = _Scan(documents, CHUNK, jax.local_devices(), sizes, lambda *_: None)
    scores, indices = np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
    for start in range(0, len(queries), sizes.queries):
        rows = slice(start, start + sizes.queries)
        half = len(queries[rows]) >= sizes.half
        candidates = _candidates(queries[rows], scan, min(k + SPARE, len(documents)), half=half)
        scores[rows], indices[rows] = candidates.scores[:, :k], candidates.indices[:, :k]
    return scores, indices


@checked
def exact_scores(
    queries: Float32[HostArray, "*rows E"], documents: Float32[HostArray, "*rows E"]
) -> Float32[HostArray, "*rows"]:
    """Inner product of each query with its document, as `rank` scores them."""
    return exact_sums(queries, documents).astype(np.float32)


@checked
def exact_sums(
    queries: Float32[HostArray, "*rows E"], documents: Float32[HostArray, "*rows E"]
) -> Float64[HostArray, "*rows"]:
    """`exact_scores` before they are rounded; they do not depend on the arrays' memory layout."""
    # A plain sum of the last axis has one order, that of its length; a matrix product has many.
    # And only where that axis is contiguous: products of broadcast rows would not be.
    return np.multiply(queries, documents, dtype=np.float64, order="C").sum(axis=-1)


@checked
def truncate(
    vectors: Float32[HostArray, "R E"] | SeparateVectors, dim: int | None
) -> Float32[HostArray, "R P"]:
    """The first `dim` coordinates of each row, all of them for None, at unit length; in numpy.

    Of separate vectors those of that dim; for None those of the widest.
    """
    cut = vectors.at(dim) if isinstance(vectors, SeparateVectors) else vectors[:, :dim]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.float32(1e-12))


@dataclasses.dataclass(frozen=True)
class _Scan:
    """The documents, and how a pass goes over them; see `rank`."""

    documents: HostArray
    chunk: int
    devices: Sequence[Any]
    sizes: Sizes
    on_pass: Callable[[Pass, int], None]


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


def _rank_rows(queries: HostArray, scan: _Scan, k: int) -> tuple[HostArray, HostArray, HostArray]:
    """Scores, indices and ties of some queries; again where rounding leaves a doubt."""
    documents = scan.documents
    wanted = min(k + SPARE, len(documents))
    half = len(queries) >= scan.sizes.half
    candidates = _candidates(queries, scan, wanted, half=half)
    scores, indices, tied, doubtful = _settle(queries, documents, k, candidates)
    if half and len(doubtful):
        candidates = _candidates(queries[doubtful], scan, wanted, half=False)
        closer = _settle(queries[doubtful], documents, k, candidates)
        scores[doubtful], indices[doubtful], tied[doubtful], still = closer
        doubtful = doubtful[still]
    if len(doubtful):
        scan.on_pass("float64", len(doubtful))
    for row in doubtful:
        every = _every_score(queries[row], documents)
        kth = -np.partition(-every, k - 1)[k - 1]
        above, equal = np.flatnonzero(every > kth), np.flatnonzero(every == kth)
        above = above[np.argsort(-every[above], kind="stable")]
        indices[row] = np.concatenate((above, equal))[:k]
        scores[row] = every[indices[row]]
        tied[row] = len(above) + len(equal) - k
    return scores, indices, tied


def _candidates(queries: HostArray, scan: _Scan, wanted: int, *, half: bool) -> _Candidates:
    """The best `wanted` of each span of documents, and of all spans together."""
    scan.on_pass("bfloat16" if half else "float32", len(queries))
    rows = np.arange(len(queries))[:, None]
    scores, indices = (np.zeros((len(queries), 0), t) for t in (np.float32, np.int64))
    others = np.full(len(queries), -np.inf, np.float32)
    for blocks, groups, starts, stops, longest in _spans(queries, scan, half):
        best, unseen = _best_blocks(blocks, groups, wanted)
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1) * longest
        # Twice the bound on the rounding of a sum of E products, in whatever order.
        slack = (queries.shape[1] + 8) * 2.0**-23 * lengths
        # Both sides are rounded to the eight bits of bfloat16.
        first = slack + (2.0**-8 + 2.0**-18) * lengths if half else slack
        places = starts[best][:, :, None] + np.arange(BLOCK)
        valid = places < stops[best][:, :, None]
        places, valid = places.reshape(len(queries), -1), valid.reshape(len(queries), -1)
        rough = _score_some(queries, scan.documents, np.where(valid, places, 0))
        scores = np.concatenate((scores, np.where(valid, rough, -np.inf)), axis=1)
        indices = np.concatenate((indices, places), axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        dropped = scores[rows, order[:, wanted : wanted + 1]]
        scores, indices = (x[rows, order[:, :wanted]] for x in (scores, indices))
        bounds = [others, unseen + first, *(dropped + slack[:, None]).T]
        others = np.max(np.stack(bounds), axis=0).astype(np.float32)
    return _Candidates(scores, indices, np.nextafter(others, np.float32(np.inf)))


def _spans(
    queries: HostArray, scan: _Scan, half: bool
) -> Iterator[tuple[HostArray, HostArray, HostArray, HostArray, float]]:
    """Of each span: the best of blocks and of groups, blocks' ends, the longest document's norm."""
    documents, chunk, devices = scan.documents, scan.chunk, scan.devices
    rounded = queries.astype(jnp.bfloat16) if half else queries
    copies = [jax.device_put(rounded, device) for device in devices]
    running: list[tuple[int, tuple[Array, Array, Array]]] = []
    for turn, start in enumerate(range(0, len(documents), chunk)):
        part = documents[start : start + chunk]
        device = turn % len(devices)
        running.append((start, _best(copies[device], jax.device_put(part, devices[device]))))
        # Two at once would push each other's scores out of the cache, or fill the device.
        if len(running) >= len(devices):
            jax.block_until_ready(running[-len(devices)][1])
        stop = start + len(part)
        if stop < len(documents) and len(running) * chunk < scan.sizes.span:
            continue
        outputs = [tuple(map(np.asarray, arrays)) for _, arrays in running]
        starts, stops = [], []
        for (first, _), (blocks, _, square) in zip(running, outputs, strict=True):
            if not np.isfinite(square):
                bad = ~np.isfinite(documents[first : first + chunk]).all(axis=1)
                raise _not_finite("document", first + int(np.argmax(bad)))
            starts.append(first + BLOCK * np.arange(len(blocks)))
            stops.append(np.full(len(blocks), min(first + chunk, stop)))
        blocks, groups = (np.concatenate([one[i] for one in outputs]) for i in (0, 1))
        longest = float(np.sqrt(max(float(square) for *_, square in outputs)))
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
    queries: HostArray, documents: HostArray, k: int, candidates: _Candidates
) -> tuple[HostArray, HostArray, HostArray, HostArray]:
    """Scores, indices and ties by exact scores, and the rows where others might still be above."""
    indices = np.sort(candidates.indices, axis=1)
    exact = np.zeros(indices.shape, np.float32)
    step = max(1, 2**22 // (indices.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        some = documents[indices[start : start + step]]
        repeated = np.broadcast_to(queries[start : start + step, None], some.shape)
        exact[start : start + step] = exact_scores(repeated, some)
    order = np.argsort(-exact, axis=1, kind="stable")
    exact, indices = (np.take_along_axis(x, order, axis=1) for x in (exact, indices))
    tied = (exact[:, k:] == exact[:, k - 1 : k]).sum(axis=1)
    doubtful = np.flatnonzero(candidates.others >= exact[:, k - 1])
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

    Documents are rounded to bfloat16 where the queries are.
    """
    size = len(documents)
    square = jnp.max(jnp.sum(documents * documents, axis=1))
    group = BLOCK * BLOCK
    step = min(STEP, -(-size // group) * group)
    steps = -(-size // step)
    padded = jnp.pad(documents, ((0, steps * step - size), (0, 0)))
    transposed = queries.T  # Once, not in each step of the loop.

    def reduce(number: Array) -> tuple[Array, Array]:
        part = lax.dynamic_slice_in_dim(padded, number * step, step)
        if queries.dtype == jnp.bfloat16:
            half = part.astype(jnp.bfloat16)
            scores = jnp.matmul(half, transposed, preferred_element_type=jnp.float32)
        else:
            scores = jnp.matmul(part, transposed, precision=lax.Precision.HIGHEST)
        blocks = scores.reshape(step // BLOCK, BLOCK, -1).max(axis=1)
        # Zeros that fill up a block can only raise its best score, so it is never missed.
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
