"""Normalisations, each computed in float32 whatever the dtype around it.

flax's own layers differ from the published models in three ways that show at
1e-5: an epsilon of 1e-6, a variance taken as E[x²] − E[x]², and no mask over time.
"""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32

from mrl_jax.nn.param_tree import Frozen


class RMSNorm(nnx.Module):
    """Root-mean-square norm as in Qwen3: normalise in float32, cast, then scale.

    Source: Zhang and Sennrich, 2019 (arXiv 1910.07467), in the order of operations
    of the published Qwen3 models.
    """

    def __init__(self, width: int, *, epsilon: float, param_dtype: DTypeLike):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones((width,), param_dtype))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x32 = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        normed = (x32 * lax.rsqrt(mean_square + self.epsilon)).astype(x.dtype)
        return normed * _rank_like(self.scale[...].astype(x.dtype), x)


class _Affine(nnx.Module):
    """A scale and a bias for each channel, applied in float32."""

    def __init__(self, width: int, *, epsilon: float, param_dtype: DTypeLike):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones((width,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((width,), param_dtype))

    def _apply(self, normed: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = _rank_like(self.scale[...].astype(jnp.float32), normed)
        return normed * scale + _rank_like(self.bias[...].astype(jnp.float32), normed)


class LayerNorm(_Affine):
    """Layer norm over the last axis with a two-pass variance, in float32."""

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * lax.rsqrt(variance + self.epsilon)
        return self._apply(normed).astype(x.dtype)


class TimeGroupNorm(_Affine):
    """Group norm with one group a channel, after HuBERT-base's first convolution.

    Its statistics run over time, so padding changes every frame of a clip unless it is left
    out of them: `mask` is True at the frames that count. Variance is two-pass, in float32.
    """

    def __call__(
        self, x: Float[Array, "B T C"], mask: Bool[Array, "B T"] | None
    ) -> Float[Array, "B T C"]:
        x32 = x.astype(jnp.float32)
        if mask is None:
            mean = jnp.mean(x32, axis=1, keepdims=True)
            variance = jnp.mean(jnp.square(x32 - mean), axis=1, keepdims=True)
        else:
            weight = mask[:, :, None].astype(jnp.float32)
            # A clip without a single frame has no statistics; 1 keeps it finite.
            count = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
            mean = jnp.sum(x32 * weight, axis=1, keepdims=True) / count
            variance = jnp.sum(jnp.square(x32 - mean) * weight, axis=1, keepdims=True) / count
        return self.by_statistics(x, mean, variance)

    def by_statistics(
        self,
        x: Float[Array, "B T C"],
        mean: Float32[Array, "B 1 C"],
        variance: Float32[Array, "B 1 C"],
    ) -> Float[Array, "B T C"]:
        """Normalise some of a clip's frames by the statistics of all of them."""
        normed = (x.astype(jnp.float32) - mean) * lax.rsqrt(variance + self.epsilon)
        return self._apply(normed).astype(x.dtype)


class FixedBatchNorm(_Affine):
    """Batch norm as it computes after training: by statistics that it holds, never by the batch's.

    They are `Frozen` whatever becomes of the other weights: no gradient moves a statistic.
    Source: Ioffe and Szegedy, 2015 (arXiv 1502.03167).
    """

    def __init__(self, width: int, *, epsilon: float, param_dtype: DTypeLike):
        super().__init__(width, epsilon=epsilon, param_dtype=param_dtype)
        self.mean = Frozen(jnp.zeros((width,), param_dtype))
        self.variance = Frozen(jnp.ones((width,), param_dtype))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x32 = x.astype(jnp.float32)
        mean, variance = (
            _rank_like(statistic[...].astype(jnp.float32), x)
            for statistic in (self.mean, self.variance)
        )
        return self._apply((x32 - mean) * lax.rsqrt(variance + self.epsilon)).astype(x.dtype)


def _rank_like(vector: Float[Array, " D"], x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """`vector` with leading axes of one, so that no rank is promoted silently."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
