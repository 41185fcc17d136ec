"""Attention in blocks of queries and keys, whose memory grows with the length and not its square.

The softmax is accumulated over blocks of keys: a running maximum, the sum of the exponentials
under it, and the weighted sum of values, rescaled when the maximum grows. The result is that of
`attention.attend_plainly` but for rounding. Gradients recompute the scores, block by block.

Sources: Milakov and Gimelshein, 2018 (arXiv 1805.02867) for the running softmax; Rabe and Staats,
2021 (arXiv 2112.05682) for attention that uses it and its gradient.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int

from mrl_jax.nn.masking import length_mask

MASKED = -1e30
"""Added to the score of a hidden key: far below any score, and still finite."""
BLOCK = 1024
"""Queries, and keys, of a block: the scores of one head (4 MiB) stay in a CPU's cache."""


def blocks_pay(places: int) -> bool:
    """Whether sequences of so many places are attended to in blocks.

    On a CPU blocks are as fast as the plain form from 1,500 places on and a fifth to two thirds
    faster from 5,000; below 2,048 (41 s of audio) everything stays as it is. Accelerators run
    large products better and have more memory, so they take blocks later.
    """
    return places > (2 * BLOCK if jax.default_backend() == "cpu" else 8 * BLOCK)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyBlocks:
    """Keys and values in blocks of equal size. (As in `Batch`, fields carry no shapes.)

    Attributes:
        keys, values: [B, K, J, F, H], J blocks of F places.
        lengths: [B] int32, keys of each row that may be seen, from the first on.
    """

    keys: Any
    values: Any
    lengths: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistanceBias:
    """A bias of scores that depends on the distance from query to key, times a gate per query.

    Attributes:
        gates: [B, N, F, 1] float32, of a block of queries.
        by_distance: [N, 2P - 1] float32, of the distances from 1 - P to P - 1, key minus
            query, of P places.
    """

    gates: Any
    by_distance: Any


def attend_in_blocks(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B L K H"],
    value: Float[Array, "B L K H"],
    *,
    lengths: Int[Array, " B"] | None = None,
    causal: bool = False,
    block: int = BLOCK,
) -> Float[Array, "B L N H"]:
    """`attention.attend` in blocks of `block` places; arguments as there."""
    B, L, N, H = query.shape
    extra = -L % block
    padded = (jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))) for x in (query, key, value))
    # [J, B, F, heads, H]: blocks first, as `lax.map` takes them.
    queries, keys, values = (
        jnp.moveaxis(x.reshape(B, -1, block, *x.shape[2:]), 1, 0) for x in padded
    )
    lengths = jnp.full(B, L, jnp.int32) if lengths is None else lengths
    blocks = key_blocks(keys, values, lengths)
    mixed = lax.map(
        lambda part: attend_to(part[1], blocks, first=part[0] * block, causal=causal),
        (jnp.arange(len(queries)), queries),
    )
    return jnp.moveaxis(mixed, 0, 1).reshape(B, -1, N, H)[:, :L]


def key_blocks(
    keys: Float[Array, "J B F K H"], values: Float[Array, "J B F K H"], lengths: Int[Array, " B"]
) -> KeyBlocks:
    """Keys and values as `attend_to` reads them; `lengths` count over all blocks, from 1 on."""
    keys, values = (x.transpose(1, 3, 0, 2, 4) for x in (keys, values))
    return KeyBlocks(keys, values, jnp.maximum(lengths, 1))


def attend_to(
    query: Float[Array, "B F N H"],
    blocks: KeyBlocks,
    *,
    first: Int[Array, ""],
    causal: bool = False,
    bias: DistanceBias | None = None,
) -> Float[Array, "B F N H"]:
    """Attention of one block of queries to all keys.

    Args:
        query: as many places as a block of keys has.
        blocks: the keys and values; N is a multiple of their heads K.
        first: place of the first query.
        causal: a query sees the keys up to its own place only.
        bias: added to the scaled scores; it needs N = K.
    """
    B, F, N, H = query.shape
    K = blocks.keys.shape[1]
    grouped = query.reshape(B, F, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
    longest = jnp.max(blocks.lengths)

    def of_head(head: tuple[Any, ...]) -> Float[Array, "Q H"]:
        query, keys, values, length, gates, by_distance = head
        return _attend_head(
            query,
            (keys, values),
            (length, longest, first),
            (gates, by_distance) if bias is not None else None,
            causal=causal,
        )

    def flat(x: Float[Array, "B K ..."]) -> Float[Array, "heads ..."]:
        return x.reshape(B * K, *x.shape[2:])

    gates = by_distance = jnp.zeros((B * K, 1, 1), jnp.float32)
    if bias is not None:
        gates = flat(bias.gates)
        by_distance = jnp.tile(bias.by_distance, (B, 1))
    lengths = jnp.repeat(blocks.lengths, K)
    heads = (flat(grouped), flat(blocks.keys), flat(blocks.values), lengths, gates, by_distance)
    # Nothing of a block is kept for the backward pass, which computes it again.
    of_head = jax.checkpoint(of_head, prevent_cse=False)
    # One head after another keeps the scores in a CPU's cache; accelerators want large products.
    every = lax.map if jax.default_backend() == "cpu" else lambda run, heads: jax.vmap(run)(heads)
    mixed = every(of_head, heads).reshape(B, K, N // K, F, H)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(B, F, N, H).astype(query.dtype)


def _attend_head(
    query: Float[Array, "Q H"],
    keys_values: tuple[Float[Array, "J F H"], Float[Array, "J F H"]],
    places: tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]],
    bias: tuple[Float32[Array, "F 1"], Float32[Array, " distances"]] | None,
    *,
    causal: bool,
) -> Float32[Array, "Q H"]:
    """One head of one row; groups of queries stand one after another in Q.

    `places` are the keys that this row may see, those that any row may see, and the place of the
    first query.
    """
    length, longest, first = places
    J, F, H = keys_values[0].shape
    groups = len(query) // F

    def step(carry: tuple[Any, Any, Any], block: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        peak, total, mixed = carry
        number, key, value = block
        scores = jnp.matmul(query, key.T, preferred_element_type=jnp.float32) * H**-0.5
        if bias is not None:
            scores += bias[0] * _by_distance(bias[1], (number * F - first), F, J * F)
        place = number * F + jnp.arange(F)
        if causal:
            later = place[None, :] > first + jnp.arange(F)[:, None]
            scores += jnp.tile(jnp.where(later, MASKED, 0.0), (groups, 1))
        scores += jnp.where(place < length, 0.0, MASKED)[None, :]
        # The result does not depend on the maximum, so no gradient passes through it.
        raised = lax.stop_gradient(jnp.maximum(peak, jnp.max(scores, axis=1)))
        weights, shrink = jnp.exp(scores - raised[:, None]), jnp.exp(peak - raised)
        total = total * shrink + jnp.sum(weights, axis=1)
        weights = weights.astype(value.dtype)
        added = jnp.matmul(weights, value, preferred_element_type=jnp.float32)
        return raised, total, mixed * shrink[:, None] + added

    step = jax.checkpoint(step, prevent_cse=False)

    def step_if_seen(carry: Any, block: Any) -> tuple[Any, None]:
        seen = block[0] * F < longest
        if causal:
            seen &= block[0] * F < first + F
        return lax.cond(seen, step, lambda carry, block: carry, carry, block), None

    peak = jnp.full(len(query), MASKED, jnp.float32)
    start = (peak, jnp.zeros_like(peak), jnp.zeros((len(query), H), jnp.float32))
    (_, total, mixed), _ = lax.scan(step_if_seen, start, (jnp.arange(J), *keys_values))
    return mixed / total[:, None]


def _by_distance(
    values: Float32[Array, " distances"], shift: Int[Array, ""], size: int, places: int
) -> Float32[Array, "F F"]:
    """values[key - query + places - 1] for `size` queries and as many keys `shift` further on."""
    # [query, key] is part[key - query + size - 1]. In copies of it (with one entry more) one after
    # another, rows that are one entry shorter than a copy begin one entry earlier each.
    part = lax.dynamic_slice(values, (shift + places - size,), (2 * size - 1,))
    part = jnp.roll(jnp.pad(part, (0, 1)), 1 - size)
    rows = jnp.tile(part, size)[: size * (2 * size - 1)].reshape(size, 2 * size - 1)
    return rows[:, :size]


def zero_beyond(
    states: Float[Array, "B F D"], lengths: Int[Array, " B"], first: Int[Array, ""]
) -> Float[Array, "B F D"]:
    """A block of states with zeros from each row's length on, which counts from place 0."""
    valid = length_mask(lengths - first, states.shape[1])
    return jnp.where(valid[:, :, None], states, jnp.zeros((), states.dtype))
