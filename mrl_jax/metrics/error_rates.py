"""Word and character error rates."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.core.extras import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
    """Edits that turn a reference of `units` words or characters, at least 1, into a hypothesis."""

    units: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per unit; above 1 where much is inserted."""
        return self.total / self.units


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Errors of hypotheses against references, one a utterance; spaces count as characters."""

    words: Sequence[Errors]
    characters: Sequence[Errors]

    @property
    def wer(self) -> float:
        """Word errors over all words of the references."""
        return _rate(self.words)

    @property
    def cer(self) -> float:
        """Character errors over all characters of the references."""
        return _rate(self.characters)

    @property
    def perfect(self) -> Float[HostArray, " U"]:
        """1 for each utterance without any error, else 0."""
        return np.asarray([float(not errors.total) for errors in self.words])


@checked
def compare_transcripts(references: Sequence[str], hypotheses: Sequence[str]) -> Comparison:
    """Count errors of each utterance; hypotheses may be empty.

    Raises:
        MrlError: jiwer is not installed; nothing to compare; an empty reference, which
            has no rate.
    """
    if len(references) != len(hypotheses):
        raise ArgumentError(f"{len(references)} references and {len(hypotheses)} hypotheses")
    if not references:
        raise MrlError("there is no transcript to compare", hint="pass one or more")
    for number, text in enumerate(references):
        if not text.strip():
            raise MrlError(
                "is empty, so no error rate is defined",
                where=f"reference {number}",
                hint="transcribe the clip, or leave it out",
            )
    jiwer = import_jiwer()
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    return Comparison(words=_each(words), characters=_each(characters))


def import_jiwer() -> Any:
    """jiwer; an `MrlError` where it is not installed."""
    require("jiwer", by="an error rate")
    import jiwer

    return jiwer


def _each(output: Any) -> list[Errors]:
    """Each sentence's counts from jiwer's WordOutput or CharacterOutput."""
    counted = []
    for reference, chunks in zip(output.references, output.alignments, strict=True):
        counts = dict.fromkeys(("substitute", "delete", "insert", "equal"), 0)
        for chunk in chunks:
            in_reference = chunk.ref_end_idx - chunk.ref_start_idx
            in_hypothesis = chunk.hyp_end_idx - chunk.hyp_start_idx
            counts[chunk.type] += max(in_reference, in_hypothesis)
        counted.append(
            Errors(
                units=len(reference),
                substitutions=counts["substitute"],
                deletions=counts["delete"],
                insertions=counts["insert"],
            )
        )
    return counted


def _rate(errors: Sequence[Errors]) -> float:
    return sum(one.total for one in errors) / sum(one.units for one in errors)
