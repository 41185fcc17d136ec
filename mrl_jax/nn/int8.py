"""Frozen weights in eight bits: a quarter of float32's memory, computed in the tower's dtype."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

LARGEST = 127
"""Of a quantised weight; -128 is not used, so that the range is symmetric."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Weight:
    """A kernel [..., I, O] as whole numbers, and a factor for each of its outputs.

    Attributes:
        values: [..., I, O] int8. (Fields of a pytree carry no shapes, as JAX puts shapes in their
            place.)
        scale: [..., 1, O] float32.
        dtype: of the kernel that they stand for.
    """

    values: Any
    scale: Any
    dtype: str = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def dequantize(self) -> Float[Array, "... I O"]:
        """The kernel, within half a step of `scale` of the original at every entry."""
        return (self.values.astype(jnp.float32) * self.scale).astype(self.dtype)


def quantize(kernel: Float[Array, "... I O"], *, dtype: DTypeLike | None = None) -> Int8Weight:
    """Round a kernel to multiples of its outputs' largest weight over 127.

    Args:
        kernel: inputs on its second to last axis.
        dtype: of the dequantised kernel; the kernel's own by default.
    """
    wide = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=-2, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / LARGEST
    values = jnp.round(wide / scale).astype(jnp.int8)
    return Int8Weight(values, scale, jnp.dtype(dtype or kernel.dtype).name)


def quantize_layers(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A flat mapping of weights with the kernels of stacked layers in eight bits.

    They are nearly all of a large tower; embeddings, norms and convolutions stay as they are.
    """
    return {
        path: quantize(array) if is_layer_kernel(path) else array for path, array in weights.items()
    }


def is_layer_kernel(path: str) -> bool:
    """Whether a dotted path names the kernel of a linear layer within a stack of layers."""
    parts = path.split(".")
    return "layers" in parts and parts[-1] == "kernel"


def dequantize(tree: Any) -> Any:
    """A tree whose eight-bit kernels are what they stand for."""

    def is_leaf(x: Any) -> bool:
        return isinstance(x, Int8Weight)

    return jax.tree.map(lambda x: x.dequantize() if is_leaf(x) else x, tree, is_leaf=is_leaf)
