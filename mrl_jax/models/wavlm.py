"""WavLM: HuBERT whose attention knows how far apart two frames are, and gates that by content.

Source: Chen et al., 2021 (arXiv 2110.13900, section 3.1), and the published base, base-plus and
large checkpoints in Hugging Face format.
"""

import dataclasses
import math
from typing import Any, ClassVar, Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from mrl_jax.core.arguments import Size, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.models.hubert import HubertConfig, HubertEncoder, HubertLayer, SelfAttention
from mrl_jax.nn.layer_stack import Dtypes
from mrl_jax.nn.linear import Linear


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class WavLMConfig(HubertConfig):
    """Sizes and variants of a WavLM encoder; base and large are HuBERT's otherwise.

    Attributes:
        position_buckets: kinds of distance between two frames, half of them for each direction.
        position_distance: frames from which on all distances are one.
    """

    position_buckets: Size = 320
    position_distance: Size = 800

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position_buckets < 4:
            raise ArgumentError(f"position_buckets is {self.position_buckets}, expected 4 or more")
        if self.position_distance <= self.position_buckets // 4:
            raise ArgumentError(
                f"position_distance is {self.position_distance}, expected more than a quarter of "
                f"position_buckets, {self.position_buckets // 4}"
            )


@checked
def distance_buckets(config: WavLMConfig, frames: int) -> HostArray:
    """The bucket of each distance from -(frames - 1) to frames - 1: key minus query.

    Near ones have a bucket each, far ones share it with more and more neighbours, by their
    logarithm.

    Returns:
        [2 * frames - 1] int32.
    """
    distance = np.arange(-(frames - 1), frames)
    half = config.position_buckets // 2
    near, far = half // 2, np.abs(distance)
    scale = np.float32(math.log(config.position_distance / near))
    grown = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(near)) / scale
    shared = np.minimum(near + (grown * (half - near)).astype(np.int64), half - 1)
    return (np.where(far < near, far, shared) + half * (distance > 0)).astype(np.int32)


class PositionBias(nnx.Module):
    """What every head adds to the score of two frames for their distance, before the gates."""

    def __init__(self, config: WavLMConfig, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        self.config = config
        shape = (config.position_buckets, config.num_heads)
        init = nnx.initializers.normal(stddev=0.02)
        self.embedding = nnx.Param(init(rngs.params(), shape, dtypes["param_dtype"]))

    def __call__(self, frames: int) -> Float32[Array, "N T T"]:
        by_distance = self.by_distance(frames)
        place = jnp.arange(frames)
        return by_distance[:, place[None, :] - place[:, None] + frames - 1]

    def by_distance(self, frames: int) -> Float32[Array, "N distances"]:
        """Of the distances from 1 - frames to frames - 1, key minus query."""
        table = self.embedding[...].astype(jnp.float32).T
        return table[:, jnp.asarray(distance_buckets(self.config, frames))]


class PositionGate(nnx.Module):
    """How much of the position bias a frame takes in each head, from what it holds there."""

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        heads = config.num_heads
        self.projection = Linear(config.width // heads, 8, rngs=rngs, **dtypes)
        self.scale = nnx.Param(jnp.ones((1, heads, 1, 1), dtypes["param_dtype"]))

    def __call__(self, heads: Float[Array, "B T N H"]) -> Float32[Array, "B N T 1"]:
        drawn = self.projection(heads).astype(jnp.float32)
        # Two gates, each the sum of four outputs.
        gates = nnx.sigmoid(jnp.sum(drawn.reshape(*drawn.shape[:3], 2, 4), axis=-1))
        update, reset = jnp.split(gates.transpose(0, 2, 1, 3), 2, axis=-1)
        return update * (reset * self.scale[...].astype(jnp.float32) - 1.0) + 2.0


class GatedAttention(SelfAttention):
    """Self-attention with a gated bias by distance."""

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        super().__init__(config, rngs=rngs, **dtypes)
        self.gate = PositionGate(config, rngs=rngs, **dtypes)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        lengths: Int[Array, " B"] | None,
        bias: Float[Array, "N T T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """`bias` is the position bias, the same for all clips and layers."""
        assert bias is not None
        return super().__call__(x, lengths, self.gates(x) * bias[None])

    def gates(self, x: Float[Array, "B T D"]) -> Float32[Array, "B N T 1"]:
        return self.gate(x.reshape(*x.shape[:2], self.num_heads, -1))


class WavLMLayer(HubertLayer):
    """A layer whose attention also takes the position bias."""

    attention_type: ClassVar[type[SelfAttention]] = GatedAttention


@checked
class WavLMEncoder(HubertEncoder):
    """A `HubertEncoder` with WavLM's attention; arguments as there."""

    layer_type: ClassVar[type[HubertLayer]] = WavLMLayer

    def __init__(
        self,
        config: WavLMConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        held: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(config, **held, **options)
        self.position_bias = PositionBias(config, **held)

    def layer_context(self, frames: int) -> tuple[Array, ...]:
        return (self.position_bias(frames),)

    def distance_bias(self, frames: int) -> Float32[Array, "N distances"]:
        return self.position_bias.by_distance(frames)


@checked
def abstract_wavlm(config: WavLMConfig, **options: Any) -> WavLMEncoder:
    """A `WavLMEncoder` with shapes in place of weights, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: WavLMEncoder(config, **options, rngs=nnx.Rngs(0)))


@checked
def encoder_type(config: HubertConfig) -> type[HubertEncoder]:
    """The encoder that a config is of."""
    return WavLMEncoder if isinstance(config, WavLMConfig) else HubertEncoder
