"""Rotary position embedding, half-split form, with angles in float32.

Source: Su et al., 2021 (arXiv 2104.09864), in the layout of the published Qwen3
models, where coordinate i of a head is paired with coordinate i + H/2.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int


def rope_angles(
    positions: Int[Array, "B L"], head_width: int, theta: float
) -> Float32[Array, "B L half"]:
    """Angle of each coordinate pair at each position, in radians."""
    exponents = jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width
    frequencies = 1.0 / (theta**exponents)
    return positions.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]


def apply_rope(
    x: Float[Array, "B L N H"], angles: Float32[Array, "#B L half"]
) -> Float[Array, "B L N H"]:
    """Rotate each coordinate pair of each head by its angle; computed in float32."""
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return rotated.astype(x.dtype)
