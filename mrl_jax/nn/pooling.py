"""From token vectors to one embedding a row."""

from typing import overload

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32

from mrl_jax.core.array_types import AnyArray, HostArray


def pool_last(vectors: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The vector at each row's last valid place, whichever side the padding is on.

    A row without a valid place gives its first vector.
    """
    places = jnp.arange(mask.shape[-1])[None, :]
    last = jnp.max(jnp.where(mask, places, 0), axis=-1)
    return jnp.take_along_axis(vectors, last[:, None, None], axis=1)[:, 0, :]


def l2_normalize(
    x: Float[Array, "*rows E"], *, epsilon: float = 1e-12
) -> Float32[Array, "*rows E"]:
    """Scale each row to unit length, in float32; a zero row stays zero.

    Written as x · rsqrt(max(Σx², ε²)), whose gradient at 0 is finite where that of
    x / max(‖x‖, ε) is NaN.
    """
    x32 = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x32), axis=-1, keepdims=True)
    return x32 * lax.rsqrt(jnp.maximum(squares, epsilon**2))


@overload
def truncate(embeddings: Array, dim: int | None) -> Array: ...
@overload
def truncate(embeddings: HostArray, dim: int | None) -> HostArray: ...
def truncate(
    embeddings: Float[AnyArray, "*rows E"], dim: int | None
) -> Float[AnyArray, "*rows dim"]:
    """The first `dim` coordinates of Matryoshka embeddings, at unit length again.

    Args:
        embeddings: an array of JAX's, or of numpy's: a host array never goes to a device.
        dim: coordinates to keep; None keeps all.

    Returns:
        An array of the same kind; of JAX's, in float32.

    Raises:
        ValueError: `dim` is not between 1 and the width of the embeddings.
    """
    width = embeddings.shape[-1]
    if dim is not None and not 1 <= dim <= width:
        raise ValueError(f"dim is {dim}, expected 1 to {width}, the width of the embeddings")
    cut = embeddings[..., :dim]
    if isinstance(cut, np.ndarray):
        return cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), np.float32(1e-12))
    return l2_normalize(cut)
