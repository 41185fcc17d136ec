"""What all late-fusion models have in common: the text tower reads speech as vectors."""

from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.array_types import AnyArray
from mrl_jax.models.two_towers import Prompt, TwoTowers, whole_prompt


class FusionModel(TwoTowers):
    """Speech tokens stand in for token embeddings; a subclass says which, by `text_inputs`."""

    def text_inputs(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"], prompt: Prompt
    ) -> tuple[Float[Array, "B L E"], Bool[Array, "B L"]]:
        """What the text tower reads: prompt, speech tokens and end token.

        Returns:
            vectors of the text tower's width, and True where they are valid.
        """
        raise NotImplementedError

    def join(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"], prompt: Prompt
    ) -> Float32[Array, "B E"]:
        """Embeddings of prompt, speech tokens and end token by the text tower."""
        return self.text.embed(*self.text_inputs(layer_states, frame_mask, prompt))

    def speech_features(
        self,
        samples: Float[AnyArray, "B S"],
        lengths: Int[AnyArray, " B"],
        prompt: Int[AnyArray, "B P"] | None = None,
        prompt_mask: Bool[AnyArray, "B P"] | None = None,
    ) -> Float32[Array, "B K E"]:
        """`Qwen3Encoder.features` of speech: the vectors of `embed_speech`, and means of tokens."""
        output = self.speech(samples, lengths)
        given = whole_prompt(prompt, prompt_mask)
        vectors, mask = self.text_inputs(output.layer_states, output.frame_mask, given)
        return self.text.features(vectors, mask)
