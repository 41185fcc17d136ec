"""Softmax cross-entropy of nested cosines: all prefixes for little more than the widest.

The inner products of a prefix are those of the prefix before plus those of the block of
coordinates between the two, so that all prefixes together take one product of full width. So does
each side of the hand-written backward pass: the cotangent of a prefix's products is also that of
all shorter blocks, and is summed from the widest prefix down before it is multiplied with the
vectors. Rows are processed in tiles, whose products stay in the cache. Where keeping all products
for the backward pass would take too much memory, they are recomputed, as in FlashAttention (Dao et
al., 2022, arXiv 2205.14135); one row's products are never split.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int

KEPT_BYTES = 2**30
"""Products beyond this are not kept for the backward pass, but recomputed."""
CPU_TILE, DEVICE_TILE = 2**21, 2**24
"""Entries of a tile: as many as fit a CPU's cache; as many as keep another device busy."""
NO_OVERFLOW_FROM = 0.025
"""From this temperature on, exp(cosine / temperature) and its sums are far from overflow."""


class Candidates(NamedTuple):
    """Which candidates are in the softmax of each row.

    Those that count and have neither the row's query id nor its document id, and the row's own
    positive.

    Attributes:
        row_query, row_document, row_own: query id, document id and global number of each row.
        counts: whether the candidate is in any softmax.
        query, document, own: ids and global number of each candidate.
        has_query, has_document: whether the candidate has such an id.
    """

    row_query: Int[Array, " B"]
    row_document: Int[Array, " B"]
    row_own: Int[Array, " B"]
    counts: Bool[Array, " G"]
    query: Int[Array, " G"]
    document: Int[Array, " G"]
    own: Int[Array, " G"]
    has_query: Bool[Array, " G"]
    has_document: Bool[Array, " G"]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Static options."""

    blocks: tuple[tuple[int, int], ...]
    rows: int  # Of a tile.
    keep: bool  # The products, for the backward pass.
    skip_max_shift: bool  # Exponentials cannot overflow, so the maximum is not subtracted.


def nested_cross_entropy(
    anchors: Float[Array, "B E"],
    candidates: Float[Array, "G E"],
    positive: Int[Array, " B"],
    blocks: Sequence[tuple[int, int]],
    temperature: float | Float32[Array, ""],
    allowed: Candidates | None = None,
    *,
    blockwise: bool | None = None,
) -> Float32[Array, "blocks B"]:
    """−log softmax of each row's positive among the candidates, at every prefix.

    Args:
        anchors: one a row, of any length.
        candidates: of any length.
        positive: place of each row's own among them.
        blocks: of coordinates, (0, a), (a, b), ...; prefix n ends where block n does.
        temperature: what cosines are divided by.
        allowed: which candidates are in each row's softmax; all for None. The loss of a row
            with none is meaningless; its gradient is zero where its cotangent is.
        blockwise: recompute products in the backward pass instead of keeping them; by
            default where they take more than `KEPT_BYTES`.
    """
    rows, others = anchors.shape[0], candidates.shape[0]
    product_bytes = 4 * len(blocks) * rows * others
    entries = CPU_TILE if jax.default_backend() == "cpu" else DEVICE_TILE
    tile = min(rows, max(8, entries // others))
    static = isinstance(temperature, int | float)
    plan = _Plan(
        blocks=tuple(blocks),
        # Tiles of nearly equal size: the padding of the last one is wasted work.
        rows=-(-rows // -(-rows // tile)),
        keep=product_bytes <= KEPT_BYTES if blockwise is None else not blockwise,
        skip_max_shift=static and temperature >= NO_OVERFLOW_FROM,
    )
    wide = plan.blocks[-1][1]
    return _losses(
        plan,
        anchors[:, :wide].astype(jnp.float32),
        candidates[:, :wide].astype(jnp.float32),
        jnp.asarray(temperature, jnp.float32),
        positive,
        allowed,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(plan: _Plan, *arrays: Any) -> Array:
    return _forward(plan, *arrays)[0]


def _forward(
    plan: _Plan,
    anchors: Array,
    candidates: Array,
    temperature: Array,
    positive: Array,
    allowed: Candidates | None,
) -> tuple[Array, Any]:
    candidates_T = candidates.T  # Once, and not in every tile.
    row_scales, scales = _scales(anchors, plan), _scales(candidates, plan)

    def tile(part: tuple[Any, ...]) -> tuple[Any, ...]:
        rows, row_scale, own, mask = part
        products = _products(plan, rows, candidates_T)
        mask = _mask(mask, allowed)
        sums, owns = [], []
        for product, of_rows, of_candidates in zip(products, row_scale, scales, strict=True):
            over_t = of_rows / temperature
            positives = jnp.take_along_axis(product, own[:, None], 1)[:, 0]
            owns.append(positives * over_t * of_candidates[own])
            logits = product * over_t[:, None] * of_candidates[None, :]
            sums.append(_log_sum_exp(logits, mask, skip_max_shift=plan.skip_max_shift))
        return jnp.stack(sums), jnp.stack(owns), jnp.stack(products) if plan.keep else None

    parts = _tiles(plan, anchors, row_scales, positive, allowed)
    sums, owns, products = lax.map(tile, parts)
    sums, owns = (_join(x, len(anchors), axis=1) for x in (sums, owns))
    residuals = (anchors, candidates, temperature, positive, allowed, sums, products)
    return sums - owns, residuals


def _backward(plan: _Plan, residuals: Any, cotangents: Array) -> tuple[Any, ...]:
    anchors, candidates, temperature, positive, allowed, sums, products = residuals
    candidates_T = candidates.T
    row_scales, scales = _scales(anchors, plan), _scales(candidates, plan)
    columns = jnp.arange(len(candidates))

    def tile(total: tuple[Array, Array], part: tuple[Any, ...]) -> tuple[Any, Any]:
        rows, row_scale, own, mask, row_sums, weights, products = part
        if products is None:
            products = _products(plan, rows, candidates_T)
        mask = _mask(mask, allowed)
        is_own = own[:, None] == columns[None, :]
        block_cotangent = jnp.zeros_like(products[0])
        to_rows, to_candidates, row_cotangent, cotangent = [], [], [], []
        # From the widest prefix down: the cotangent of a block's products.
        for level in reversed(range(len(plan.blocks))):
            start, stop = plan.blocks[level]
            over_t = row_scale[level] / temperature
            logits = products[level] * over_t[:, None] * scales[level][None, :]
            probs = jnp.exp(logits - row_sums[level][:, None])
            if mask is not None:
                probs = jnp.where(mask, probs, 0.0)
            gradient = weights[level][:, None] * (probs - is_own.astype(jnp.float32))
            gradient = _kept_for_all_uses(gradient)
            moment = gradient * logits
            row_cotangent.append(jnp.sum(moment, axis=1))
            cotangent.append(jnp.sum(moment, axis=0))
            scaled = gradient * over_t[:, None] * scales[level][None, :]
            block_cotangent = block_cotangent + scaled
            block_cotangent = _kept_for_all_uses(block_cotangent)
            to_rows.append(_matmul(block_cotangent, candidates[:, start:stop]))
            to_candidates.append(_matmul(rows[:, start:stop].T, block_cotangent))
        more = jnp.concatenate(to_candidates[::-1]), jnp.stack(cotangent[::-1])
        total = jax.tree.map(jnp.add, total, more)
        return total, (jnp.concatenate(to_rows[::-1], axis=1), jnp.stack(row_cotangent[::-1]))

    parts = (
        *_tiles(plan, anchors, row_scales, positive, allowed),
        _split(sums, plan, axis=1),
        _split(cotangents, plan, axis=1),  # Zero in the padding of the last tile.
        products,
    )
    zero = jnp.zeros_like(candidates_T), jnp.zeros_like(scales)
    (to_candidates, cotangent), (to_rows, row_cotangent) = lax.scan(tile, zero, parts)
    row_cotangent = _join(row_cotangent, len(anchors), axis=1)
    to_rows = _join(to_rows, len(anchors), axis=0) - _norm_gradient(
        plan, anchors, row_scales, row_cotangent
    )
    to_candidates = to_candidates.T - _norm_gradient(plan, candidates, scales, cotangent)
    return to_rows, to_candidates, -jnp.sum(row_cotangent) / temperature, None, None


_losses.defvjp(_forward, _backward)


def _kept_for_all_uses(x: Array) -> Array:
    """`x`, but for a GPU stored, as XLA would compute it anew for each of its uses.

    A GPU does that faster than it writes `x` and reads it again (docs/decisions/005).
    """
    return x if jax.default_backend() == "gpu" else lax.optimization_barrier(x)


def _products(plan: _Plan, rows: Array, candidates_T: Array) -> list[Array]:
    """Inner products of each prefix, [rows, G]."""
    products: list[Array] = []
    for start, stop in plan.blocks:
        more = _matmul(rows[:, start:stop], candidates_T[start:stop])
        products.append(products[-1] + more if products else more)
    return products


def _matmul(a: Array, b: Array) -> Array:
    # The default is TF32 on a GPU, and bfloat16 on a TPU.
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _squares(vectors: Array, plan: _Plan) -> Array:
    """Squared length [blocks, N] of every prefix."""
    each = [jnp.sum(jnp.square(vectors[:, a:b]), axis=1) for a, b in plan.blocks]
    return jnp.cumsum(jnp.stack(each), axis=0)


def _scales(vectors: Array, plan: _Plan) -> Array:
    """One over the length of every prefix; finite, as in l2_normalize, at a zero vector."""
    return lax.rsqrt(jnp.maximum(_squares(vectors, plan), jnp.float32(1e-24)))


def _norm_gradient(plan: _Plan, vectors: Array, scales: Array, cotangent: Array) -> Array:
    """The part of the gradient [N, E] that passes through the lengths of the prefixes.

    `cotangent` [blocks, N] holds sums of gradient times logit.
    """
    per_prefix = jnp.where(_squares(vectors, plan) > 1e-24, jnp.square(scales) * cotangent, 0.0)
    # A block is in its own prefix and in all longer ones.
    per_block = jnp.cumsum(per_prefix[::-1], axis=0)[::-1]
    parts = [
        vectors[:, a:b] * row[:, None] for (a, b), row in zip(plan.blocks, per_block, strict=True)
    ]
    return jnp.concatenate(parts, axis=1)


def _log_sum_exp(logits: Array, mask: Array | None, *, skip_max_shift: bool) -> Array:
    """log Σ exp over the candidates that `mask` allows; 0 where there are none."""
    if skip_max_shift:
        powers = jnp.exp(logits)
        total = jnp.sum(powers if mask is None else jnp.where(mask, powers, 0.0), axis=1)
        return jnp.log(jnp.where(total > 0, total, 1.0))
    if mask is not None:
        # Before the maximum, so that masked candidates have no influence.
        logits = jnp.where(mask, logits, -jnp.inf)
    highest = jnp.max(logits, axis=1)
    highest = jnp.where(highest > -math.inf, highest, 0.0)
    total = jnp.sum(jnp.exp(logits - highest[:, None]), axis=1)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)) + highest, 0.0)


def _mask(rows: tuple[Array, Array, Array] | None, allowed: Candidates | None) -> Array | None:
    """[rows, G]: which candidates are in the softmax of each row of a tile."""
    if rows is None or allowed is None:
        return None
    query, document, own = (x[:, None] for x in rows)
    same = (query == allowed.query[None, :]) & allowed.has_query[None, :]
    same |= (document == allowed.document[None, :]) & allowed.has_document[None, :]
    return allowed.counts[None, :] & (~same | (own == allowed.own[None, :]))


def _tiles(
    plan: _Plan, anchors: Array, scales: Array, positive: Array, allowed: Candidates | None
) -> tuple[Any, ...]:
    """What both passes need of each tile's rows; the last is None where all are allowed."""
    ids = None if allowed is None else (allowed.row_query, allowed.row_document, allowed.row_own)
    rows = jax.tree.map(lambda x: _split(x, plan), (positive, ids))
    return _split(anchors, plan), _split(scales, plan, axis=1), *rows


def _split(x: Array, plan: _Plan, *, axis: int = 0) -> Array:
    """[tiles, ...], rows dealt out in turn, so that a tile has rows of all devices."""
    tiles = -(-x.shape[axis] // plan.rows)
    fill = tiles * plan.rows - x.shape[axis]
    x = jnp.pad(x, [(0, fill if i == axis else 0) for i in range(x.ndim)])
    x = x.reshape(*x.shape[:axis], plan.rows, tiles, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis + 1, 0)


def _join(x: Array, rows: int, *, axis: int) -> Array:
    """The inverse of `_split`, without its padding; `axis` is that of the rows."""
    x = jnp.moveaxis(x, 0, axis + 1)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, rows, axis=axis)
