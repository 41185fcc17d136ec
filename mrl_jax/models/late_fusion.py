"""Late fusion: a frozen speech tower, a small trained head, a frozen text tower.

Source: arXiv 2602.19991, section 3. Speech tokens enter the text tower in place of token
embeddings, after those of a prompt; its pooled last place is the speech embedding.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import AnyArray, HostArray
from mrl_jax.models.fusion import FusionConfig, FusionModel, SpeechTokens
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.speech_tower import SpeechTower
from mrl_jax.models.two_towers import Calibration, Head


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class LateFusionConfig(FusionConfig):
    """What a late-fusion model with the published head adds to its towers."""


@checked
class LateFusion(FusionModel):
    """Speech and text in one space; the stream `params` of `rngs` gives the head's weights.

    Raises:
        ValueError: the end token is not one of the text tower's.
    """

    def __init__(
        self, speech: SpeechTower, text: Qwen3Encoder, *, config: LateFusionConfig, rngs: nnx.Rngs
    ):
        super().__init__(speech, text, config)
        self.head = FusionHead(
            speech.config.num_layers, speech.config.width, text.config.width, rngs=rngs
        )

    @property
    def min_samples(self) -> int:
        """The fewest samples that give a speech token (720 with the published towers)."""
        config = self.speech.config
        return config.min_samples + (KERNEL - 1) * config.frame_samples

    @checked
    def calibrate(self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]) -> None:
        """Fit the head's fixed factors to both towers, on some clips (see `FusionHead`)."""
        output = self.speech(samples, lengths)
        embeddings = self.text.embed_tokens.embedding[...].astype(jnp.float32)
        token_size = jnp.sqrt(jnp.mean(jnp.square(embeddings)))
        self.head.calibrate(output.layer_states, output.frame_mask, token_size)

    @checked
    def speech_tokens(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"]
    ) -> SpeechTokens:
        frames = jnp.sum(frame_mask.astype(jnp.int32), axis=1)
        counts = jnp.maximum((frames - KERNEL) // STRIDE + 1, 0)
        vectors = self.head(layer_states).astype(self.text.dtype)
        return SpeechTokens(vectors=vectors, counts=counts, lost=jnp.zeros_like(counts))


KERNEL = STRIDE = 2
"""Frames to one speech token: 50 frames a second become 25 tokens."""


class FusionHead(Head):
    """Maps layer states [Y, B, T, D] to speech tokens [B, T // 2, width], in float32.

    Layer states and token embeddings may differ a thousandfold in size. Speech tokens far
    larger than the text tower's own embeddings saturate it, and weights small enough to
    scale them down are dwarfed by the first steps of Adam. So two kinds of fixed factors do
    it in training (`calibrate`), and are multiplied into the weights afterwards (`fold`): the
    architecture stays the published one.

    Args:
        num_layers, speech_width: of the speech tower, Y and D.
        text_width: of the text tower.
        rngs: source of the initial weights; the stream `params` is read.
    """

    def __init__(self, num_layers: int, speech_width: int, text_width: int, *, rngs: nnx.Rngs):
        self.frame_projection = nnx.Linear(
            num_layers * speech_width, text_width, use_bias=False, rngs=rngs
        )
        self.frame_downsample = nnx.Conv(
            text_width, text_width, kernel_size=KERNEL, strides=STRIDE, padding="VALID", rngs=rngs
        )
        super().__init__(num_layers)
        self.token_scale = Calibration(jnp.ones((), jnp.float32))

    def __call__(self, layer_states: Float[Array, "Y B T D"]) -> Float32[Array, "B U E"]:
        scale = self.layer_scale[...][:, None, None, None]
        states = jnp.moveaxis(layer_states.astype(jnp.float32) * scale, 0, 2)
        frames = self.frame_projection(states.reshape(*states.shape[:2], -1))
        return self.frame_downsample(frames) * self.token_scale[...]

    def calibrate(
        self,
        layer_states: Float[Array, "Y B T D"],
        frame_mask: Bool[Array, "B T"],
        token_size: Float32[Array, ""],
    ) -> None:
        """Choose the factors: states of mean square 1 go in, tokens of `token_size` come out,
        which is the root mean square of the text tower's token embeddings."""
        self.fit_layer_scale(layer_states, frame_mask)
        self.token_scale[...] = jnp.ones((), jnp.float32)
        # Each of the new weights' layers keeps the mean square of what goes in, about.
        tokens = self(layer_states)
        pairs = frame_mask[:, : KERNEL * tokens.shape[1]].reshape(*tokens.shape[:2], KERNEL)
        valid = jnp.all(pairs, axis=-1)[:, :, None].astype(jnp.float32)
        number = jnp.maximum(jnp.sum(valid), 1.0) * tokens.shape[-1]
        size = jnp.sqrt(jnp.sum(jnp.square(tokens) * valid) / number)
        self.token_scale[...] = token_size / jnp.maximum(size, 1e-12)

    def start(
        self,
        weights: Float[HostArray, "F E"],
        bias: Float[HostArray, " E"],
        rest: Float[HostArray, " E"],
    ) -> None:
        """Set the weights: a token is `rest` plus a linear function of each of its frames.

        Args:
            weights, bias: that function, of the scaled states of a frame, side by side.
            rest: the token of silence.
        """
        size = float(np.asarray(self.token_scale[...]))
        both = np.broadcast_to(np.eye(len(rest)) / size, (KERNEL, len(rest), len(rest)))
        self.frame_projection.kernel[...] = jnp.asarray(weights, jnp.float32)
        self.frame_downsample.kernel[...] = jnp.asarray(both, jnp.float32)
        assert self.frame_downsample.bias is not None
        self.frame_downsample.bias[...] = jnp.asarray((rest + KERNEL * bias) / size, jnp.float32)

    def fold(self) -> dict[str, HostArray]:
        layer_scale, token_scale, kernel = (
            np.asarray(x[...])
            for x in (self.layer_scale, self.token_scale, self.frame_projection.kernel)
        )
        rows = np.repeat(layer_scale, kernel.shape[0] // len(layer_scale))
        downsample = self.frame_downsample
        assert downsample.bias is not None
        return {
            "frame_projection.kernel": kernel * rows[:, None],
            "frame_downsample.kernel": np.asarray(downsample.kernel[...]) * token_scale,
            "frame_downsample.bias": np.asarray(downsample.bias[...]) * token_scale,
        }
