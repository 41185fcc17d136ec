"""Masks from lengths, and rows without gaps from masks."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def length_mask(lengths: Int[Array, " B"], size: int) -> Bool[Array, "B T"]:
    """True at the first `lengths[b]` of `size` places in row b."""
    return jnp.arange(size)[None, :] < lengths[:, None]


def valid_first(mask: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """The order of places in which a row's valid ones stand first, each kind in its own order.

    In that order place and position are the same number wherever padding stood, and a causal
    mask alone hides all padding from what is valid.
    """
    return jnp.argsort(~mask, axis=1, stable=True)


def take_places(vectors: Float[Array, "*rows L D"], order: Int[Array, "B L"]) -> Array:
    """Each row's vectors in another order of its places; leading axes before B are kept."""
    order = order.reshape((1,) * (vectors.ndim - 3) + (*order.shape, 1))
    return jnp.take_along_axis(vectors, order, axis=-2)


def segment_positions(segments: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """The position of each place in its segment: a run of places with one number."""
    places = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    begins = jnp.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0
    return places - lax.cummax(jnp.where(begins, places, 0), axis=1)
