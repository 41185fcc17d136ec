"""From token vectors to one embedding a row."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32

from mrl_jax.core.errors import ArgumentError


def pool_last(vectors: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The vector at each row's last valid place, whichever side the padding is on.

    A row without a valid place gives its first vector.
    """
    places = jnp.arange(mask.shape[-1])[None, :]
    last = jnp.max(jnp.where(mask, places, 0), axis=-1)
    return jnp.take_along_axis(vectors, last[:, None, None], axis=1)[:, 0, :]


def pool_first(vectors: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The vector at each row's first valid place; a row without one gives its first vector."""
    first = jnp.argmax(mask, axis=-1)
    return jnp.take_along_axis(vectors, first[:, None, None], axis=1)[:, 0, :]


def mean_valid(
    vectors: Float[Array, "*rows L D"], mask: Bool[Array, "*#rows L"]
) -> Float32[Array, "*rows D"]:
    """The mean over each row's valid places, in float32; zeros where a row has none."""
    valid = mask[..., None]
    # Not a product: vectors at padding may be anything.
    total = jnp.sum(jnp.where(valid, vectors.astype(jnp.float32), 0.0), axis=-2)
    return total / jnp.maximum(jnp.sum(valid, axis=-2), 1).astype(jnp.float32)


def l2_normalize(x: Float[Array, "*rows E"]) -> Float32[Array, "*rows E"]:
    """Scale each row to unit length, in float32; a zero row stays zero.

    Written as x · rsqrt(max(Σx², ε²)), ε = 1e-12, whose gradient at 0 is finite where that of
    x / max(‖x‖, ε) is NaN.
    """
    x32 = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x32), axis=-1, keepdims=True)
    return x32 * lax.rsqrt(jnp.maximum(squares, 1e-12**2))


def truncate(embeddings: Float[Array, "*rows E"], dim: int) -> Float32[Array, "*rows dim"]:
    """The first `dim` coordinates of Matryoshka embeddings, at unit length again.

    Raises:
        ArgumentError: `dim` is not between 1 and the width of the embeddings.
    """
    width = embeddings.shape[-1]
    if not 1 <= dim <= width:
        raise ArgumentError(f"dim is {dim}, expected 1 to {width}, the width of the embeddings")
    return l2_normalize(embeddings[..., :dim])
