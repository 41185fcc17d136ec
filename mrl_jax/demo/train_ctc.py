"""The demo's own training of a small HuBERT recogniser, from random weights.

It makes the speech towers of the demo and of the spoken digits; published towers are
fine-tuned by `training.ctc` instead. Loss: connectionist temporal classification
(Graves et al., 2006).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.demo.small_stage import StageConfig, StageState, advance, fit
from mrl_jax.losses.ctc import mean_ctc_loss
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc, encode_transcripts
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.init import initial_recogniser, start_as_filterbank
from mrl_jax.models.inputs import pad_clips

ClipBatch = tuple[Sequence[HostArray], Sequence[str]]
"""Clips [S] at the config's sample rate, and the transcript of each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcStageConfig(StageConfig):
    """How the recogniser is trained.

    Attributes:
        batch_sizes: samples that a batch is padded to: the smallest of these that holds
            its longest clip.
        max_labels: tokens that transcripts are padded to.
        filterbank: whether the first convolution starts as a bank of filters instead of at
            random; its kernel must be long enough (16 ms or so) to tell frequencies apart.
    """

    batch_sizes: tuple[int, ...]
    max_labels: int
    filterbank: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.batch_sizes or self.max_labels < 1:
            raise MrlError(
                f"steps is {self.steps}, batch_sizes {self.batch_sizes} and max_labels "
                f"{self.max_labels}, expected one or more of each",
                where="CtcStageConfig",
                hint="set all three",
            )


def train_ctc(
    config: HubertConfig,
    vocabulary: CtcVocabulary,
    batches: Callable[[int], ClipBatch] | Sequence[ClipBatch],
    stage: CtcStageConfig,
    *,
    progress: bool = True,
) -> HubertCtc:
    """Train a recogniser from random weights.

    Args:
        config: sizes of the encoder.
        vocabulary: the tokens that transcripts are written in.
        batches: clips and transcripts of step i, as a function of i or a sequence that
            is repeated. Each combination of batch size and padded size costs one compilation.
        stage: steps, sizes and rates.
        progress: whether to show a progress bar.

    Raises:
        MrlError: an unknown character, a clip or transcript too long, a clip that is no
            audio; a loss that is not finite.
    """

    def batch_of(number: int) -> tuple[HostArray, ...]:
        clips, texts = batches(number) if callable(batches) else batches[number % len(batches)]
        longest = max((np.size(clip) for clip in clips), default=0)
        size = min((size for size in stage.batch_sizes if size >= longest), default=None)
        samples, lengths = pad_clips(clips, config, size=size or max(stage.batch_sizes))
        return samples, lengths, *encode_transcripts(texts, vocabulary, stage.max_labels)

    graphdef, params = nnx.split(initial_model(config, vocabulary, stage))

    def step(state: StageState, batch: tuple[HostArray, ...]) -> tuple[StageState, Array]:
        return train_step(state, *batch, graphdef=graphdef, stage=stage, blank=vocabulary.blank)

    return nnx.merge(graphdef, fit("CTC", params, stage, step, batch_of, progress=progress))


# Static arguments, so that several trainings in one process compile once.
@functools.partial(jax.jit, static_argnames=("graphdef", "stage", "blank"))
def train_step(
    state: StageState,
    samples: Float32[Array, "B S"],
    lengths: Int[Array, " B"],
    labels: Int[Array, "B L"],
    counts: Int[Array, " B"],
    *,
    graphdef: nnx.GraphDef[HubertCtc],
    stage: CtcStageConfig,
    blank: int,
) -> tuple[StageState, Float32[Array, ""]]:
    """One step: the new state, and the loss."""

    def loss_of(params: Any) -> Float32[Array, ""]:
        output = nnx.merge(graphdef, params)(samples, lengths)
        return mean_ctc_loss(output, labels, counts, blank=blank)

    return advance(state, loss_of, stage)


def initial_model(
    config: HubertConfig, vocabulary: CtcVocabulary, stage: CtcStageConfig
) -> HubertCtc:
    """The recogniser before the first step."""
    model = initial_recogniser(config, vocabulary, stage.seed)
    return start_as_filterbank(model) if stage.filterbank else model
