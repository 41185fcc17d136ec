"""What all late-fusion models have in common: the text tower reads speech as vectors."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import AnyArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.two_towers import HeadConfig, Prompt, TwoTowers, whole_prompt
from mrl_jax.nn.masking import length_mask


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionConfig(HeadConfig):
    """What every late-fusion model may have.

    Attributes:
        end_token: id of the token that closes a text, put after the speech tokens as well and
            pooled there; None pools the last speech token, as the published head does.
    """

    end_token: int | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpeechTokens:
    """Speech as the text tower reads it. (As in `Batch`, fields of a pytree carry no shapes.)

    Attributes:
        vectors: [B, U, E], in place of token embeddings.
        counts: [B] int32, how many of them are valid in each row, from its first on.
        lost: [B] int32, tokens behind them that there was no room for.
    """

    vectors: Any
    counts: Any
    lost: Any


class FusionModel(TwoTowers):
    """Speech tokens stand in for token embeddings; a subclass says which, by `speech_tokens`.

    Raises:
        ArgumentError: the end token is not one of the text tower's.
    """

    def __init__(self, speech: Any, text: Qwen3Encoder, config: FusionConfig):
        vocabulary = text.config.vocab_size
        if config.end_token is not None and not 0 <= config.end_token < vocabulary:
            raise ArgumentError(
                f"end_token is {config.end_token}, expected 0 to {vocabulary - 1}: the text "
                f"tower has {vocabulary} tokens"
            )
        super().__init__(speech, text, config)

    @property
    def end_token(self) -> int | None:
        return self.config.end_token

    @property
    def speech_reader(self) -> Qwen3Encoder:
        """The tower that reads the speech tokens: the text tower itself."""
        return self.text

    def speech_tokens(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"]
    ) -> SpeechTokens:
        """What stands in for token embeddings, from what the speech tower gave."""
        raise NotImplementedError

    def text_inputs(
        self, speech: SpeechTokens, prompt: Prompt
    ) -> tuple[Float[Array, "B L E"], Bool[Array, "B L"]]:
        """What the text tower reads: prompt, speech tokens and end token.

        Returns:
            vectors of the text tower's width, and True where they are valid.
        """
        rows, size, _ = speech.vectors.shape
        vectors, masks = [speech.vectors], [length_mask(speech.counts, size)]
        if prompt is not None:
            vectors.insert(0, self.text.embed_tokens(prompt[0]))
            masks.insert(0, prompt[1])
        if self.config.end_token is not None:
            # Behind the padding: positions count valid places only, so it is the next one.
            end = jnp.full((rows, 1), self.config.end_token, jnp.int32)
            vectors.append(self.text.embed_tokens(end))
            masks.append(jnp.ones((rows, 1), jnp.bool_))
        return jnp.concatenate(vectors, axis=1), jnp.concatenate(masks, axis=1)

    def join(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"], prompt: Prompt
    ) -> Float32[Array, "B E"]:
        """Embeddings of prompt, speech tokens and end token by the text tower."""
        speech = self.speech_tokens(layer_states, frame_mask)
        return self.speech_reader.embed(*self.text_inputs(speech, prompt))

    def embed_speech_and_lost(
        self,
        samples: Float[AnyArray, "B S"],
        lengths: Int[AnyArray, " B"],
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> tuple[Float32[Array, "B E"], Int[Array, " B"]]:
        speech = self.tokens_of_speech(samples, lengths)
        inputs = self.text_inputs(speech, whole_prompt(prompt, prompt_mask))
        return self.speech_reader.embed(*inputs), speech.lost

    def tokens_of_speech(
        self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]
    ) -> SpeechTokens:
        """`speech_tokens` of clips as `pad_clips` makes them."""
        output = self.speech(samples, lengths)
        return self.speech_tokens(output.layer_states, output.frame_mask)

    def speech_features(
        self,
        samples: Float[AnyArray, "B S"],
        lengths: Int[AnyArray, " B"],
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> Float32[Array, "B 4 E"]:
        """`Qwen3Encoder.features` of speech: the vectors of `embed_speech`, and means of tokens."""
        return self.speech_features_and_lost(samples, lengths, prompt, prompt_mask)[0]

    def speech_features_and_lost(
        self,
        samples: Float[AnyArray, "B S"],
        lengths: Int[AnyArray, " B"],
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> tuple[Float32[Array, "B 4 E"], Int[Array, " B"]]:
        """`speech_features`, and the speech tokens of each clip that there was no room for."""
        speech = self.tokens_of_speech(samples, lengths)
        inputs = self.text_inputs(speech, whole_prompt(prompt, prompt_mask))
        return self.speech_reader.features(*inputs), speech.lost
