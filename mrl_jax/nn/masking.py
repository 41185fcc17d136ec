"""Masks from lengths, and positions from masks."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def length_mask(lengths: Int[Array, " B"], size: int) -> Bool[Array, "B T"]:
    """True at the first `lengths[b]` of `size` places in row b."""
    return jnp.arange(size)[None, :] < lengths[:, None]


def token_positions(mask: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """Place of each token among its row's valid tokens, counted from 0.

    A text gets the same positions wherever its padding stands; padding gets
    those of a neighbour, which nothing valid ever reads.
    """
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)


def causal_mask(mask: Bool[Array, "B L"]) -> Bool[Array, "B 1 L L"]:
    """True where query i may see key j: j is valid and stands at i or before it."""
    size = mask.shape[-1]
    earlier = jnp.tril(jnp.ones((size, size), jnp.bool_))
    return earlier[None, None, :, :] & mask[:, None, None, :]
