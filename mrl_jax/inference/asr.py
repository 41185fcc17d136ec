"""Clips to text by a recogniser, in batches of few shapes."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.limits import MAX_SECONDS
from mrl_jax.data.text.spelling import read_bytes
from mrl_jax.inference.batching import FULL_BATCH, busy_places, padded_clips, run_batches
from mrl_jax.inference.long_clips import check_lengths, check_max_seconds
from mrl_jax.inference.programs import compile_program, count_flops
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc
from mrl_jax.nn import param_tree


class Recogniser:
    """Greedy transcripts of clips; a transcript does not depend on the batch.

    Args:
        model: the recogniser.
        batch_size: clips in a batch.
        max_seconds: longer clips are refused; None for no limit but memory.

    Attributes:
        trained, frozen: the arrays; `trained` may be replaced by those of a training state.
        vocabulary: what transcripts are spelled with.
        parameters: number of weights, those of the output layer included.

    Raises:
        MrlError: the recogniser has no vocabulary.
    """

    def __init__(
        self,
        model: HubertCtc,
        *,
        batch_size: int = 16,
        max_seconds: float | None = MAX_SECONDS,
    ):
        self._model, self._max_seconds = model, check_max_seconds(max_seconds)
        if model.vocabulary is None:
            raise no_vocabulary()
        self.vocabulary: CtcVocabulary = model.vocabulary
        self.config = model.encoder.config
        self.batch_size = batch_size
        self.parameters = param_tree.count(param_tree.flat_weights(model))
        self._pad = functools.partial(
            padded_clips, config=self.config, padding=model.encoder.padding
        )
        split = param_tree.split(model)
        self.trained: Mapping[str, Any] = split.trained
        self.frozen: Mapping[str, Any] = split.frozen

        def best(model: HubertCtc, samples: Any, lengths: Any) -> Any:
            output = model(samples, lengths)
            logits = output.logits.astype(jnp.float32)
            certainty = jnp.exp(jnp.max(logits, -1) - jax.nn.logsumexp(logits, -1))
            return (jnp.argmax(logits, axis=-1), certainty), output.frame_mask

        def log_probs(model: HubertCtc, samples: Any, lengths: Any) -> Any:
            output = model(samples, lengths)
            return (jax.nn.log_softmax(output.logits, axis=-1),), output.frame_mask

        self._best, self._rebuild = compile_program(split.rebuild, best), split.rebuild
        self._log_probs = compile_program(split.rebuild, log_probs)

    def transcribe(
        self,
        clips: Sequence[HostArray],
        *,
        names: Sequence[object] | None = None,
        progress: str | None = None,
    ) -> list[str]:
        """The transcript of each clip [S]: mono, float, at the tower's sample rate.

        Args:
            names: of each clip, for error messages.
            progress: name of a progress bar.

        Raises:
            MrlError: a clip that is no audio, shorter than a frame, or too long.
        """
        return [text for text, _ in self.transcribe_scored(clips, names=names, progress=progress)]

    def transcribe_scored(
        self,
        clips: Sequence[HostArray],
        *,
        names: Sequence[object] | None = None,
        progress: str | None = None,
    ) -> list[tuple[str, float]]:
        """`transcribe`, and how certain each transcript is: the mean probability of the best token
        over the frames where that is not the blank; 0 where nothing was written.
        """
        transcripts = [("", 0.0)] * len(clips)
        for row, (best, sure) in self._frames(self._best, clips, names, progress):
            written = sure[best != self.vocabulary.blank]
            score = float(written.mean()) if written.size else 0.0
            transcripts[row] = self.vocabulary.decode(best), score
        return transcripts

    def log_probs(
        self,
        clips: Sequence[HostArray],
        *,
        names: Sequence[object] | None = None,
        progress: str | None = None,
    ) -> list[Float32[HostArray, "T V"]]:
        """Log-probabilities of every token at the frames of each clip; arguments as `transcribe`.

        All are held at once: 4 V bytes a frame.
        """
        outputs: list[HostArray] = [np.zeros((0, 0), np.float32)] * len(clips)
        for row, (scores,) in self._frames(self._log_probs, clips, names, progress):
            outputs[row] = scores
        return outputs

    def _frames(
        self,
        program: Callable[..., Any],
        clips: Sequence[HostArray],
        names: Sequence[object] | None,
        progress: str | None,
    ) -> Iterator[tuple[int, tuple[HostArray, ...]]]:
        """Numbers of clips, and the arrays that the program gives, at their frames of speech."""
        names = [f"clip {row}" for row in range(len(clips))] if names is None else names
        check_lengths(clips, names, self._model, self._max_seconds)
        batches = run_batches(
            [len(clip) for clip in clips],
            lambda rows: self._pad([clips[i] for i in rows], names=[names[i] for i in rows]),
            functools.partial(program, self.trained, self.frozen),
            batch_size=max(1, min(self.batch_size, len(clips))),
            full_length=FULL_BATCH,
            busy=busy_places("clips", self._model.encoder.padding),
            progress=progress,
        )
        for rows, (outputs, masks) in batches:
            for place, (row, spoken) in enumerate(zip(rows, masks, strict=True)):
                yield int(row), tuple(output[place][spoken] for output in outputs)

    def flops(self, clip: HostArray) -> float:
        """Floating-point operations of one clip alone, as `count_flops` counts them."""
        inputs = self._pad([clip], names=["the clip"])
        run = lambda model, *inputs: model(*inputs).logits  # noqa: E731
        return count_flops(self._rebuild, run, self.trained, self.frozen, *inputs)


def no_vocabulary(where: Path | None = None) -> MrlError:
    """The error of a recogniser, of the folder `where`, that cannot spell transcripts."""
    problem = "the recogniser has no vocabulary, so nothing can be written down"
    return MrlError(problem, where=where, hint="convert it from a folder with vocab.json")


def unspelled(transcripts: Sequence[str], vocabulary: CtcVocabulary) -> list[str]:
    """Characters of the transcripts that no tokens write, sorted."""
    letters = {letter for text in transcripts for letter in text}
    if vocabulary.byte_level:
        parts = [read_bytes(token) for token in vocabulary.written]
        return sorted(letter for letter in letters if not _joined_from(parts, letter.encode()))
    texts = map(vocabulary.text_of, range(len(vocabulary.tokens)))
    return sorted(letters.difference(*texts))


def _joined_from(parts: Sequence[bytes], wanted: bytes) -> bool:
    """Whether the wanted bytes stand in some of the parts, put one after another."""
    if any(wanted in part for part in parts):
        return True
    reached = {at for at in range(1, len(wanted)) if any(p.endswith(wanted[:at]) for p in parts)}
    for at in range(1, len(wanted)):
        if at in reached:
            if any(part.startswith(wanted[at:]) for part in parts):
                return True
            reached |= {at + len(part) for part in parts if wanted.startswith(part, at)}
    return False
