"""HuBERT and its kin as speech recognisers: an output layer over frames, and greedy decoding.

Source: Graves et al., 2006 (connectionist temporal classification), in the form of
the published HuBERT, wav2vec 2.0, MMS and WavLM CTC checkpoints.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import AnyArray, HostArray
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.data.text.spelling import BYTE_OF_CHARACTER, read_bytes
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.wavlm import encoder_type
from mrl_jax.nn.linear import Linear


@checked
@dataclasses.dataclass(frozen=True)
class CtcVocabulary:
    """The characters behind the output ids, or the tokens of a text tower.

    Attributes:
        tokens: token of each id.
        blank: id of the CTC blank (the checkpoint's padding token).
        word_delimiter: token that stands between words.
        word_delimiter_text: what is written for it.
        separator: written between tokens; where there is one (phonemes), word delimiters are not
            written.
        lower_case: decoded text.
        joins_punctuation: no space stands before punctuation and English contractions.
        writes_blank: the blank is written as its token, as by a tokenizer without a padding token.
        byte_level: the tokens are bytes of UTF-8, each written as in byte-level pair encoding.
        text_ids: id of each token in the text tower, -1 for the blank; empty if they are not
            those of a text tower.
        tokenizer_digest: SHA-256 of that text tower's tokenizer.json.
    """

    tokens: tuple[str, ...]
    blank: int = 0
    word_delimiter: str | None = "|"
    word_delimiter_text: str = " "
    separator: str = ""
    lower_case: bool = False
    joins_punctuation: bool = False
    writes_blank: bool = False
    byte_level: bool = False
    text_ids: tuple[int, ...] = ()
    tokenizer_digest: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.blank < len(self.tokens):
            raise ArgumentError(
                f"blank is id {self.blank}, expected 0 to {len(self.tokens) - 1}: "
                f"there are {len(self.tokens)} tokens"
            )
        if self.text_ids and len(self.text_ids) != len(self.tokens):
            raise ArgumentError(f"{len(self.text_ids)} text_ids for {len(self.tokens)} tokens")
        if self.byte_level and (strange := set("".join(self.written)) - set(BYTE_OF_CHARACTER)):
            raise ArgumentError(f"{', '.join(map(repr, sorted(strange)))} stand for no byte")

    @property
    def written(self) -> tuple[str, ...]:
        """The tokens without the blank."""
        return self.tokens[: self.blank] + self.tokens[self.blank + 1 :]

    def text_of(self, output: int) -> str:
        """What one output writes, spaces kept; U+FFFD for a part of a character.

        Nothing for the blank, which stands for no text whatever a tokenizer makes of it.
        """
        token = self.tokens[output]
        if output == self.blank:
            return ""
        if self.byte_level:
            return read_bytes(token).decode(errors="replace")
        return self.word_delimiter_text if token == self.word_delimiter else token

    def decode(self, ids: Sequence[int] | HostArray) -> str:
        """Text of one clip's best id at each frame: merge repeats, drop blanks, join."""
        best = np.asarray(ids)
        starts = np.concatenate(([True], best[1:] != best[:-1])) if best.size else np.zeros(0, bool)
        return self.join(best[starts])

    def join(self, ids: Sequence[int] | HostArray) -> str:
        """Text of these tokens one after the other; no spaces at its ends.

        Bytes that are no whole character become U+FFFD, as in the `tokenizers` library.
        """
        outputs = [int(i) for i in ids if i != self.blank or self.writes_blank]
        if self.byte_level:
            parts = (read_bytes(self.tokens[output]) for output in outputs)
            return b"".join(parts).decode(errors="replace").strip()
        if self.separator:
            outputs = [i for i in outputs if self.tokens[i] != self.word_delimiter]
        parts = [self.tokens[i] if i == self.blank else self.text_of(i) for i in outputs]
        text = self.separator.join(parts).strip()
        text = text.lower() if self.lower_case else text
        return joined_punctuation(text) if self.joins_punctuation else text


def joined_punctuation(text: str) -> str:
    """The text with no space before punctuation and contractions, replaced one after the other.

    As transformers' tokenizers do it where `clean_up_tokenization_spaces` is set.
    """
    for ending in (".", "?", "!", ","):
        text = text.replace(f" {ending}", ending)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {ending}", ending)
    return text


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CtcOutput:
    """Scores of every token at every frame, and the mask that is True at frames of speech."""

    logits: Float32[Array, "B T V"]
    frame_mask: Bool[Array, "B T"]


@checked
class HubertCtc(nnx.Module):
    """A `HubertEncoder` or `WavLMEncoder` with a linear output layer over its last hidden state.

    Args:
        config: sizes and variants of the encoder; its class says which it is.
        vocab_size: number of output tokens, the blank included.
        vocabulary: the tokens themselves; without them there is no `decode`.
        dtype, param_dtype, rngs, options: as in `HubertEncoder`.
    """

    def __init__(
        self,
        config: HubertConfig,
        vocab_size: int,
        *,
        vocabulary: CtcVocabulary | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        if vocabulary is not None and len(vocabulary.tokens) != vocab_size:
            raise ArgumentError(
                f"the vocabulary has {len(vocabulary.tokens)} tokens, expected {vocab_size}: "
                "one for each output of the model"
            )
        self.vocabulary = vocabulary
        held: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.encoder = encoder_type(config)(config, **held, **options)
        self.lm_head = Linear(config.width, vocab_size, **held)

    @checked
    def __call__(self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]) -> CtcOutput:
        """Logits of a batch that `pad_clips` made; those at padded frames are unspecified."""
        output = self.encoder(samples, lengths)
        logits = self.lm_head(output.last_hidden).astype(jnp.float32)
        return CtcOutput(logits=logits, frame_mask=output.frame_mask)

    @checked
    def decode(self, output: CtcOutput) -> list[str]:
        """The greedy transcript of each clip.

        Raises:
            ArgumentError: the model was made without a vocabulary.
        """
        if self.vocabulary is None:
            raise ArgumentError(
                "this recogniser has no vocabulary: convert it from a folder with vocab.json"
            )
        best = np.asarray(jnp.argmax(output.logits, axis=-1))
        masks = np.asarray(output.frame_mask)
        return [self.vocabulary.decode(ids[mask]) for ids, mask in zip(best, masks, strict=True)]


@checked
def abstract_hubert_ctc(config: HubertConfig, vocab_size: int, **options: Any) -> HubertCtc:
    """A `HubertCtc` with shapes in place of weights, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: HubertCtc(config, vocab_size, **options, rngs=nnx.Rngs(0)))


@checked
def character_vocabulary(transcripts: Sequence[str]) -> CtcVocabulary:
    """The characters of `transcripts`, sorted, after the blank and the word delimiter."""
    characters = sorted(set("".join(transcripts)) - {" "})
    return CtcVocabulary(tokens=("<pad>", "|", *characters), blank=0, word_delimiter="|")


@checked
def word_vocabulary(transcripts: Sequence[str]) -> CtcVocabulary:
    """The words of `transcripts`, sorted, after the blank: for a small closed set of words.

    Every token ends in a space, so that decoding joins words as it joins characters.
    """
    words = sorted({word for text in transcripts for word in text.split()})
    return CtcVocabulary(tokens=("<pad>", *(f"{word} " for word in words)), word_delimiter=None)


@checked
def encode_transcripts(
    transcripts: Sequence[str], vocabulary: CtcVocabulary, size: int
) -> tuple[HostArray, HostArray]:
    """Ids of each transcript's tokens, the longest that fits first, padded with the blank.

    Returns:
        labels [B, size] int32 and their counts [B] int32.

    Raises:
        MrlError: something that no token spells, or a transcript of more tokens than `size`.
    """
    rows = spell_transcripts(transcripts, vocabulary)
    for text, row in zip(transcripts, rows, strict=True):
        if len(row) > size:
            raise MrlError(
                f"has {len(row)} tokens, more than the {size} there is room for",
                where=f"transcript {text!r}",
                hint="raise CtcStageConfig.max_labels",
            )
    return pad_labels(rows, vocabulary.blank, size)


@checked
def spell_transcripts(transcripts: Sequence[str], vocabulary: CtcVocabulary) -> list[list[int]]:
    """Ids of each transcript's tokens, the longest that fits first.

    Those of a text tower's tokens are given by `text_vocabulary.token_labels` instead.

    Raises:
        MrlError: something that no token spells.
    """
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    ids.pop(vocabulary.tokens[vocabulary.blank])
    longest_first = re.compile("|".join(map(re.escape, sorted(ids, key=len, reverse=True))))
    space = "" if vocabulary.separator else vocabulary.word_delimiter or " "
    ending = " " if any(token.endswith(" ") for token in ids) else ""
    rows: list[list[int]] = []
    for text in transcripts:
        spelled = text.replace(" ", space) + (ending if text else "")
        unknown = longest_first.sub("", spelled)
        if unknown:
            raise MrlError(
                f"the vocabulary has no {', '.join(map(repr, sorted(set(unknown))))}",
                where=f"transcript {text!r}",
                hint="make the vocabulary from all transcripts",
            )
        rows.append([ids[token] for token in longest_first.findall(spelled)])
    return rows


@checked
def in_capitals(text: str, vocabulary: CtcVocabulary) -> str:
    """A text in capitals where the vocabulary has only those."""
    letters = set(vocabulary.tokens)
    return "".join(x.upper() if x not in letters and x.upper() in letters else x for x in text)


@checked
def pad_labels(rows: Sequence[Sequence[int]], blank: int, size: int) -> tuple[HostArray, HostArray]:
    """Label ids [B, size] int32, padded with the blank, and their counts [B] int32."""
    labels = np.full((len(rows), size), blank, np.int32)
    for number, row in enumerate(rows):
        labels[number, : len(row)] = row
    return labels, np.asarray([len(row) for row in rows], np.int32)
