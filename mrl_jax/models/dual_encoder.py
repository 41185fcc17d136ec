"""The dual encoder: pooled speech frames beside a frozen text tower, as in CLIP.

Source: arXiv 2602.19991, its CLIP-like baseline. One learned query attends over the
frames of all layers side by side; each Matryoshka dimension has a linear layer of its own.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.arguments import Range, checked
from mrl_jax.core.array_types import AnyArray, HostArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.speech_tower import SpeechTower
from mrl_jax.models.two_towers import Head, HeadConfig, Prompt, TwoTowers
from mrl_jax.nn.pooling import l2_normalize


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig(HeadConfig):
    """What a dual encoder adds to its towers.

    Attributes:
        dims: widths with a linear layer each, in the order of their vectors.
        nested: one layer as wide as the text tower instead; the prefixes of its vector are the
            smaller embeddings, and `dims` is not read.
    """

    dims: tuple[Annotated[int, Range(1.0, 2.0**24)], ...] = ()
    nested: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.dims)) < len(self.dims) or len(self.dims) > 1000:
            raise ValueError(f"dims is {self.dims}, expected each width once")


class PoolingHead(Head):
    """Frames of all layers [Y, B, T, D] to one vector a width, in float32.

    Attention is one head of scaled dot products with a learned query, all ones at first.
    As in `FusionHead`, fixed factors scale the layers alike in training: otherwise the layer
    with the largest states would decide alone which frames are pooled.

    Args:
        num_layers, speech_width: of the speech tower, Y and D.
        widths: of the vectors.
        rngs: source of the initial weights; the stream `params` is read.
    """

    def __init__(
        self, num_layers: int, speech_width: int, widths: Sequence[int], *, rngs: nnx.Rngs
    ):
        size = num_layers * speech_width
        self.pool_query = nnx.Param(jnp.ones(size, jnp.float32))
        self.projections = nnx.Dict(
            {f"to_{width}": nnx.Linear(size, width, rngs=rngs) for width in widths}
        )
        self.widths = tuple(widths)
        super().__init__(num_layers)

    def __call__(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"]
    ) -> list[Float32[Array, "B _"]]:
        """The vectors, in the order of `widths`; a clip without a frame pools zeros."""
        layers, rows, _, width = layer_states.shape
        states, scale = layer_states.astype(jnp.float32), self.layer_scale[...][:, None]
        query = self.pool_query[...].reshape(layers, width) * scale
        scores = jnp.einsum("ybtd,yd->bt", states, query) / math.sqrt(layers * width)
        # A finite filling: with -inf a clip without a frame would be NaN.
        filled = jnp.where(frame_mask, scores, jnp.finfo(jnp.float32).min)
        weights = jnp.where(frame_mask, jax.nn.softmax(filled, axis=1), jnp.float32(0))
        pooled = jnp.einsum("ybtd,bt->byd", states, weights) * scale[None]
        pooled = pooled.reshape(rows, -1)
        return [self.projections[f"to_{width}"](pooled) for width in self.widths]

    def fold(self) -> dict[str, HostArray]:
        scale, query = (np.asarray(x[...]) for x in (self.layer_scale, self.pool_query))
        rows = np.repeat(scale, len(query) // len(scale))
        folded = {"pool_query": query * rows}
        for name, linear in self.projections.items():
            folded[f"projections.{name}.kernel"] = np.asarray(linear.kernel[...]) * rows[:, None]
        return folded


@checked
class DualEncoder(TwoTowers):
    """Speech and text in one space; speech does not pass through the text tower.

    The stream `params` of `rngs` gives the head's weights.

    Raises:
        ArgumentError: dims that are none, twice the same, or wider than the text tower.
    """

    def __init__(
        self, speech: SpeechTower, text: Qwen3Encoder, *, config: DualEncoderConfig, rngs: nnx.Rngs
    ):
        width, dims = text.config.embed_width, config.dims
        fits = all(1 <= dim <= width for dim in dims) and len(set(dims)) == len(dims)
        if not config.nested and not (dims and fits):
            raise ArgumentError(f"dims is {dims}, expected different widths from 1 to {width}")
        super().__init__(speech, text, config)
        widths = (width,) if config.nested else dims
        self.head = PoolingHead(speech.config.num_layers, speech.config.width, widths, rngs=rngs)

    @property
    def separate_dims(self) -> tuple[int, ...]:
        """All dims, but none of a nested head."""
        return () if self.config.nested else self.config.dims

    @property
    def min_samples(self) -> int:
        """The fewest samples that give a frame (400 with the published tower)."""
        return self.speech.config.min_samples

    @checked
    def calibrate(self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]) -> None:
        """Fit the head's fixed factors to the speech tower, on some clips."""
        output = self.speech(samples, lengths)
        self.head.fit_layer_scale(output.layer_states, output.frame_mask)

    @checked
    def join(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"], prompt: Prompt
    ) -> Float32[Array, "B E"]:
        """With `nested` [B, E]; otherwise [B, sum of dims], unit vectors side by side.

        The prompt is not read: speech does not follow any text here.
        """
        vectors = self.head(layer_states, frame_mask)
        return jnp.concatenate([l2_normalize(one) for one in vectors], axis=1)
