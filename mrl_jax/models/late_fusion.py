"""Late fusion: a frozen speech tower, a small trained head, a frozen text tower.

Source: arXiv 2602.19991, section 3. Speech tokens enter the text tower in place of token
embeddings, after those of a prompt; its pooled last place is the speech embedding.
"""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx

from mrl_jax.array_types import AnyArray, Array, Bool, Float, Float32, Int
from mrl_jax.models.fusion import KERNEL, STRIDE, FusionHead
from mrl_jax.models.hubert import HubertEncoder
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.two_towers import HeadConfig, TwoTowers
from mrl_jax.nn.masking import length_mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateFusionConfig(HeadConfig):
    """What a late-fusion model adds to its towers.

    Attributes:
        end_token: id of the token that closes a text, put after the speech tokens as
            well and pooled there; None pools the last speech token, as the published
            head does.
    """

    end_token: int | None = None


class LateFusion(TwoTowers):
    """Speech and text in one space.

    Args:
        speech: the speech tower.
        text: the text tower; its width is that of the embeddings.
        config: end token and temperature.
        rngs: source of the head's initial weights; the stream `params` is read.

    Raises:
        ValueError: the end token is not one of the text tower's.
    """

    def __init__(
        self,
        speech: HubertEncoder,
        text: Qwen3Encoder,
        *,
        config: LateFusionConfig,
        rngs: nnx.Rngs,
    ):
        vocabulary = text.config.vocab_size
        if config.end_token is not None and not 0 <= config.end_token < vocabulary:
            raise ValueError(
                f"end_token is {config.end_token}, expected 0 to {vocabulary - 1}: the text "
                f"tower has {vocabulary} tokens"
            )
        super().__init__(speech, text, config)
        self.head = FusionHead(
            speech.config.num_layers, speech.config.width, text.config.width, rngs=rngs
        )

    @property
    def end_token(self) -> int | None:
        """Id of the token that is put after the speech and pooled; None without one."""
        return self.config.end_token

    @property
    def min_samples(self) -> int:
        """The fewest samples that give a speech token (720 with the published towers)."""
        config = self.speech.config
        return config.min_samples + (KERNEL - 1) * math.prod(config.conv_strides)

    def calibrate(self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]) -> None:
        """Fit the head's fixed factors to both towers, on some clips (see `FusionHead`)."""
        output = self.speech(samples, lengths)
        embeddings = self.text.embed_tokens.embedding[...].astype(jnp.float32)
        token_size = jnp.sqrt(jnp.mean(jnp.square(embeddings)))
        self.head.calibrate(output.layer_states, output.frame_mask, token_size)

    def embed_states(
        self,
        layer_states: Float[Array, "Y B T D"],
        frame_mask: Bool[Array, "B T"],
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> Float32[Array, "B E"]:
        """Unit-length embeddings of what the speech tower said, see `TwoTowers`."""
        speech = self.head(layer_states).astype(self.text.dtype)
        valid = _token_counts(jnp.sum(frame_mask.astype(jnp.int32), axis=1))
        vectors, masks = [speech], [length_mask(valid, speech.shape[1])]
        rows = speech.shape[0]
        if prompt is not None and prompt.shape[1] > 0:
            prompt = jnp.asarray(prompt)
            vectors.insert(0, self.text.embed_tokens(prompt))
            masks.insert(
                0,
                jnp.ones(prompt.shape, jnp.bool_)
                if prompt_mask is None
                else jnp.asarray(prompt_mask),
            )
        if self.config.end_token is not None:
            # Behind the padding: positions count valid places only, so it is the next one.
            end = jnp.full((rows, 1), self.config.end_token, jnp.int32)
            vectors.append(self.text.embed_tokens(end))
            masks.append(jnp.ones((rows, 1), jnp.bool_))
        return self.text.embed(jnp.concatenate(vectors, axis=1), jnp.concatenate(masks, axis=1))


def _token_counts(frames: Int[Array, " B"]) -> Int[Array, " B"]:
    return jnp.maximum((frames - KERNEL) // STRIDE + 1, 0)
