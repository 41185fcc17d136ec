"""The convolution over frames that stands for a position embedding in wav2vec 2.0 and its kin.

Source: Baevski et al., 2020 (arXiv 2006.11477, section 2), in the form of the published
checkpoints in Hugging Face format.
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mrl_jax.core.arguments import checked
from mrl_jax.nn.layer_stack import Dtypes


class GroupedConv(nnx.Module):
    """Grouped convolution over time with as many frames behind it as before it."""

    def __init__(
        self, width: int, kernel: int, groups: int, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]
    ):
        self.groups = groups
        self.dtype, param_dtype = jnp.dtype(dtypes["dtype"]), dtypes["param_dtype"]
        init = nnx.initializers.lecun_normal()
        shape = (kernel, width // groups, width)
        self.kernel = nnx.Param(init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((width,), param_dtype))

    def __call__(self, x: Float[Array, "B T D"], *, edges: bool = False) -> Float[Array, "B T2 D"]:
        """With `edges` the first and last frames only are what others see: T2 is T less those."""
        return _convolve(x, self.kernel[...], self, edges=edges)


class WeightNormConv(nnx.Module):
    """Grouped convolution over time whose kernel is `magnitude` · `direction` / ‖`direction`‖.

    The norm of each tap runs over both channel axes (weight norm over the last axis
    of the published tensors; arXiv 1602.07868). Both factors are held, so that a
    checkpoint comes back to the byte; the kernel is folded in float32 in every pass,
    which costs thousandths of it.
    """

    def __init__(
        self, width: int, kernel: int, groups: int, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]
    ):
        self.groups = groups
        self.dtype, param_dtype = jnp.dtype(dtypes["dtype"]), dtypes["param_dtype"]
        init = nnx.initializers.lecun_normal()
        shape = (kernel, width // groups, width)
        self.direction = nnx.Param(init(rngs.params(), shape, param_dtype))
        self.magnitude = nnx.Param(jnp.ones((kernel, 1, 1), param_dtype))
        self.bias = nnx.Param(jnp.zeros((width,), param_dtype))

    def kernel(self) -> Float[Array, "taps group D"]:
        """The folded kernel, float32."""
        direction = self.direction[...].astype(jnp.float32)
        norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=(1, 2), keepdims=True))
        return direction * (self.magnitude[...].astype(jnp.float32) / norm)

    def __call__(self, x: Float[Array, "B T D"], *, edges: bool = False) -> Float[Array, "B T2 D"]:
        """With `edges` the first and last frames only are what others see: T2 is T less those."""
        return _convolve(x, self.kernel(), self, edges=edges)


@checked
def reach(taps: int) -> tuple[int, int]:
    """Frames before and behind a frame that a kernel of so many taps sees.

    An even kernel would give one frame too many: the published models drop the last.
    """
    return taps // 2, taps // 2 - (taps % 2 == 0)


def _convolve(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "taps group D"],
    conv: GroupedConv | WeightNormConv,
    *,
    edges: bool,
) -> Float[Array, "B T2 D"]:
    bias, groups, dtype = conv.bias[...], conv.groups, conv.dtype
    padding = (0, 0) if edges else reach(kernel.shape[0])
    kernel = kernel.astype(dtype)
    # A convolution a group: XLA gathers all rows of a sharded batch for a grouped one.
    parts = [
        lax.conv_general_dilated(
            part,
            weights,
            window_strides=(1,),
            padding=(padding,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        for part, weights in zip(
            jnp.split(x, groups, axis=2),
            jnp.split(kernel, groups, axis=2),
            strict=True,
        )
    ]
    y = jnp.concatenate(parts, axis=2)
    return y + bias.astype(dtype)[None, None, :]
