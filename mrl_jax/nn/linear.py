"""Linear layers and convolutions in bfloat16, as a CPU's own instructions multiply it.

XLA's CPU backend computes a product of bfloat16 numbers in float32, with a copy of both sides,
unless the result is asked for in float32: then it uses the processor's instructions for bfloat16
(AMX, AVX-512), in a fifth of the time. Elsewhere, and in other dtypes, these are flax's own layers.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Float32

NARROW = 32
"""Strides of fewer numbers are left to XLA's convolution."""


class Linear(nnx.Linear):
    """`nnx.Linear`, which multiplies by `multiply`."""

    def __init__(self, inputs: int, outputs: int, **options: Any):
        super().__init__(inputs, outputs, dot_general=_dot_general, **options)


class Conv(nnx.Conv):
    """`nnx.Conv`, which without padding, dilation and groups multiplies by `multiply`."""

    def __init__(self, inputs: int, outputs: int, **options: Any):
        super().__init__(inputs, outputs, conv_general_dilated=_convolve, **options)


def multiply(x: Float[Array, "*rows I"], kernel: Float[Array, "I O"]) -> Float[Array, "*rows O"]:
    """`x @ kernel`, summed in float32 and rounded once."""
    return _multiply(x, kernel).astype(x.dtype) if bfloat16_on_cpu(x, kernel) else x @ kernel


def bfloat16_on_cpu(*arrays: Array) -> bool:
    """Whether these are arrays that XLA's CPU backend would widen to float32."""
    bfloat16 = all(array.dtype == jnp.bfloat16 for array in arrays)
    return bfloat16 and jax.default_backend() == "cpu"


# JAX's own derivative of such a product multiplies float32 by bfloat16, which is done in float32.
@jax.custom_vjp
def _multiply(x: Float[Array, "*rows I"], kernel: Float[Array, "I O"]) -> Float32[Array, "*rows O"]:
    return _contract(x, kernel, (x.ndim - 1,), (0,))


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    # Not by `_multiply`: the policy of `jax.checkpoint` would not see a product to keep.
    return _contract(x, kernel, (x.ndim - 1,), (0,)), (x, kernel)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # XLA leaves out the one that nobody asked for.
    x, kernel = kept
    gradient = gradient.astype(x.dtype)
    rows = tuple(range(gradient.ndim - 1))
    to_x = _contract(gradient, kernel, (gradient.ndim - 1,), (1,))
    to_kernel = _contract(x, gradient, rows, rows)
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype)


_multiply.defvjp(_forward, _backward)


def _contract(one: Array, other: Array, axes: Sequence[int], other_axes: Sequence[int]) -> Array:
    """The product over these axes, in float32."""
    axes_of_both = ((axes, other_axes), ((), ()))
    return lax.dot_general(one, other, axes_of_both, preferred_element_type=jnp.float32)


def _dot_general(x: Array, kernel: Array, axes: Any, **options: Any) -> Array:
    """`lax.dot_general` as `nnx.Linear` calls it: the last axis of one, the first of the other."""
    if bfloat16_on_cpu(x, kernel):
        return multiply(x, kernel)
    return lax.dot_general(x, kernel, axes, **options)


def _convolve(
    x: Float[Array, "B *places C"],
    kernel: Float[Array, "*window group O"],
    strides: Sequence[int],
    padding: Any,
    **options: Any,
) -> Float[Array, "B *frames O"]:
    """`lax.conv_general_dilated` as `nnx.Conv` calls it."""
    dilations = (*options["lhs_dilation"], *options["rhs_dilation"])
    plain = padding == "VALID" and set(dilations) == {1} and options["feature_group_count"] == 1
    wide = x.ndim == 3 and strides[0] * x.shape[2] >= NARROW
    if plain and wide and bfloat16_on_cpu(x, kernel):
        return convolve_by_rows(x, kernel, strides[0]).astype(x.dtype)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def convolve_by_rows(
    x: Float[Array, "B S C"], kernel: Float[Array, "k C O"], stride: int
) -> Float32[Array, "B T O"]:
    """A convolution without padding as products of whole strides, in bfloat16 on a CPU.

    `stride` neighbouring places are one row. A window is as many rows as hold the kernel, which is
    filled up with zeros; each of them is a product, and they are summed in float32.
    """
    size, channels, outputs = kernel.shape
    frames = (x.shape[1] - size) // stride + 1
    rows = math.ceil(size / stride)
    kernel = jnp.pad(kernel, ((0, rows * stride - size), (0, 0), (0, 0)))
    kernel = kernel.reshape(rows, stride * channels, outputs)
    samples = (frames + rows - 1) * stride
    x = jnp.pad(x[:, :samples], ((0, 0), (0, max(0, samples - x.shape[1])), (0, 0)))
    x = x.reshape(x.shape[0], -1, stride * channels)
    parts = [_multiply(x, kernel[row])[:, row : row + frames] for row in range(rows)]
    return sum(parts[1:], parts[0])
