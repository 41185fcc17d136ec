"""What all models have in common: two frozen towers and a trained head between them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.array_types import AnyArray, HostArray
from mrl_jax.core.batch import StoredSpeech
from mrl_jax.core.checks import check_positive
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.speech_tower import SpeechTower
from mrl_jax.nn.masking import length_mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What every head may have.

    Attributes:
        learn_temperature: hold the loss's temperature as a trained scalar.
        initial_temperature: where it starts.
    """

    learn_temperature: bool = False
    initial_temperature: float = 0.05

    def __post_init__(self) -> None:
        check_positive(self, "initial_temperature")


class Calibration(nnx.Variable[Any]):
    """A fixed factor: it is not trained, and `fold` multiplies it into the weights."""


Prompt = tuple[Int[Array, "B P"], Bool[Array, "B P"]] | None
"""Token ids before the speech, and True where they are valid; None without a prompt."""


def whole_prompt(prompt: Int[AnyArray, "B P"] | None, mask: Bool[AnyArray, "B P"] | None) -> Prompt:
    """A prompt with its mask, all of it valid by default; None where it has no token."""
    if prompt is None or prompt.shape[1] == 0:
        return None
    tokens = jnp.asarray(prompt)
    return tokens, jnp.ones(tokens.shape, jnp.bool_) if mask is None else jnp.asarray(mask)


class Head(nnx.Module):
    """The trained part; its `layer_scale` has a fixed factor for each layer of the speech tower."""

    def __init__(self, num_layers: int):
        self.layer_scale = Calibration(jnp.ones(num_layers, jnp.float32))

    def factors(self) -> dict[str, Calibration]:
        """The fixed factors by name."""
        return {n: value for n, value in sorted(vars(self).items()) if type(value) is Calibration}

    def fit_layer_scale(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"]
    ) -> None:
        """Set the factors that give each layer's states, over valid frames, mean square 1."""
        valid = frame_mask[None, :, :, None].astype(jnp.float32)
        squares = jnp.square(layer_states.astype(jnp.float32)) * valid
        number = jnp.sum(valid) * layer_states.shape[-1]
        mean = jnp.sum(squares, axis=(1, 2, 3)) / jnp.maximum(number, 1.0)
        self.layer_scale[...] = jnp.reciprocal(jnp.sqrt(jnp.maximum(mean, 1e-12)))

    def fold(self) -> dict[str, HostArray]:
        """The weights with the factors multiplied in, by path."""
        raise NotImplementedError


class TwoTowers(nnx.Module):
    """Speech and text in one space; the text tower's width is that of the embeddings.

    A subclass makes `head`, a `Head`, of its `config`, a `HeadConfig`.
    """

    head: Any
    config: Any

    def __init__(self, speech: SpeechTower, text: Qwen3Encoder, config: HeadConfig):
        self.speech = speech
        self.text = text
        self.config = config
        # What is trained or read in the loss as exp(log_temperature).
        self.log_temperature = (
            nnx.Param(jnp.log(jnp.float32(config.initial_temperature)))
            if config.learn_temperature
            else None
        )

    def place_towers(self, speech: Any, text: Qwen3Encoder) -> None:
        """Put these towers where those are that the model was built with."""
        self.speech, self.text = speech, text

    @property
    def separate_dims(self) -> tuple[int, ...]:
        """Dims that have a query vector of their own, side by side in `embed_speech`'s result.

        Empty where the prefixes of one vector are the smaller embeddings.
        """
        return ()

    @property
    def end_token(self) -> int | None:
        """Id of the token that is put after the speech and pooled; None without one."""
        return None

    @property
    def min_samples(self) -> int:
        """The fewest samples of a clip that can be embedded."""
        raise NotImplementedError

    def calibrate(self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]) -> None:
        """Fit the head's fixed factors to the towers, on some clips."""
        raise NotImplementedError

    def embed_speech(
        self,
        samples: Float[AnyArray, "B S"],
        lengths: Int[AnyArray, " B"],
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> Float32[Array, "B E"]:
        """Embeddings of clips as `pad_clips` makes them, each vector of unit length.

        Args:
            samples, lengths: the clips.
            prompt: token ids before the speech; a model without a text prompt ignores them.
            prompt_mask: True at tokens of the prompt; all of them by default.

        Returns:
            [B, E], or [B, sum of separate dims] where there are any.
        """
        output = self.speech(samples, lengths)
        return self.embed_states(output.layer_states, output.frame_mask, prompt, prompt_mask)

    def embed_speech_and_lost(
        self,
        samples: Float[AnyArray, "B S"],
        lengths: Int[AnyArray, " B"],
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> tuple[Float32[Array, "B E"], Int[Array, " B"]]:
        """`embed_speech`, and how many speech tokens of each clip had no room and were left out."""
        vectors = self.embed_speech(samples, lengths, prompt, prompt_mask)
        return vectors, jnp.zeros(len(vectors), jnp.int32)

    def embed_states(
        self,
        layer_states: Float[Array, "Y B T D"],
        frame_mask: Bool[Array, "B T"],
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> Float32[Array, "B E"]:
        """`embed_speech` from the `layer_states` and the `frame_mask` of the speech tower."""
        return self.join(layer_states, frame_mask, whole_prompt(prompt, prompt_mask))

    def join(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"], prompt: Prompt
    ) -> Float32[Array, "B E"]:
        """What a subclass computes for `embed_states`."""
        raise NotImplementedError

    def embed_cached(
        self,
        speech: StoredSpeech,
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> Float32[Array, "B E"]:
        """`embed_states` of states from a speech cache."""
        states = jnp.asarray(speech.states)
        if speech.scales is not None:
            states = states.astype(jnp.float32) * jnp.asarray(speech.scales)[:, None]
        mask = length_mask(jnp.asarray(speech.frames), states.shape[1])
        return self.embed_states(jnp.moveaxis(states, 2, 0), mask, prompt, prompt_mask)

    def embed_text(
        self, tokens: Int[AnyArray, "B L"], mask: Bool[AnyArray, "B L"]
    ) -> Float32[Array, "B E"]:
        """Unit-length embeddings of texts; the ids must carry the end token."""
        return self.text.embed(tokens, mask)

    def text_features(
        self, tokens: Int[AnyArray, "B L"], mask: Bool[AnyArray, "B L"]
    ) -> Float32[Array, "B 4 E"]:
        """`Qwen3Encoder.features` of texts: the vectors of `embed_text`, then means over tokens."""
        return self.text.features(tokens, mask)

    def temperature(self, fixed: float) -> float | Float32[Array, ""]:
        """The trained temperature, or `fixed` itself, a number, where none is trained."""
        if self.log_temperature is None:
            return fixed
        return jnp.exp(self.log_temperature[...])
