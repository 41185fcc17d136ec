"""Transcripts as a recogniser writes them, and a text as its sentences."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.data.text.paragraphs import SENTENCE_END
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.asr import unspelled
from mrl_jax.models.ctc import CtcVocabulary, in_capitals, spell_transcripts
from mrl_jax.models.text_vocabulary import check_tokenizer, token_labels

Unknown = Literal["drop", "skip"]
"""Whether a transcript with characters that no token writes is dropped, or they are left out."""


@dataclasses.dataclass(frozen=True)
class Speller:
    """Transcripts to the outputs of a recogniser.

    Attributes:
        vocabulary: of the recogniser.
        tokenizer: of the text tower whose tokens the vocabulary has; None for others.
        plain: texts are compared without case and punctuation.
        unknown: what is done about characters that no token writes.

    Raises:
        MrlError: the vocabulary is of a text tower, and there is no tokenizer, or another one.
    """

    vocabulary: CtcVocabulary
    tokenizer: TextTokenizer | None = None
    plain: bool = True
    unknown: Unknown = "drop"

    def __post_init__(self) -> None:
        if self.tokenizer is not None:
            check_tokenizer(self.vocabulary, self.tokenizer)
        elif self.vocabulary.text_ids:
            raise MrlError(
                "the recogniser writes the tokens of a text tower, and none is given",
                hint="set `text_tower` to the folder that it was trained with",
            )

    def labels(self, text: str, *, where: object) -> Int[HostArray, " N"]:
        """The outputs that write a transcript, one or more.

        Raises:
            BrokenRow: it has characters that no token writes; nothing is left of it.
        """
        text = " ".join((plain_text(text) if self.plain else text).split())
        if self.tokenizer is None:
            text = in_capitals(text, self.vocabulary)
        if strange := set(unspelled([text], self.vocabulary)) - {" "}:
            if self.unknown == "drop":
                raise BrokenRow(
                    f"the recogniser has no {', '.join(map(repr, sorted(strange)))}, which the "
                    "transcript has",
                    where=where,
                    hint="correct it, or set unknown=skip to leave them out",
                )
            text = " ".join("".join(x for x in text if x not in strange).split())
        if not text:
            raise BrokenRow("the transcript has nothing that the recogniser writes", where=where)
        try:
            return np.asarray(self._ids(text), np.int64)
        except MrlError as error:
            raise BrokenRow(error.problem, where=where, hint="correct the transcript") from error

    def _ids(self, text: str) -> Sequence[int]:
        if self.tokenizer is not None:
            return token_labels([text], self.vocabulary, self.tokenizer)[0]
        return spell_transcripts([text], self.vocabulary)[0]


def sentences_of(text: str) -> list[str]:
    """The lines of a text, or where it has one line only, its sentences."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        return lines
    line, starts = lines[0], [0]
    starts += [match.end() for match in SENTENCE_END.finditer(lines[0])]
    ends = [*starts[1:], len(line)]
    parts = (line[start:end].strip() for start, end in zip(starts, ends, strict=True))
    return [part for part in parts if part]
