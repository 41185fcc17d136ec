"""The CTC stage: a small HuBERT learns, from nothing, to write down what it hears.

This is how the towers of the demo and of the spoken digits come about; published
towers have been through it already. Loss: connectionist temporal classification
(Graves et al., 2006).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from mrl_jax.array_types import Array, Float32, HostArray, Int
from mrl_jax.errors import MrlError
from mrl_jax.models.clips import pad_clips
from mrl_jax.models.ctc import CtcOutput, CtcVocabulary, HubertCtc, abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.training.stage import StageConfig, StageState, advance, begin, fill, finite, result

NAME = "the CTC stage"
ClipBatch = tuple[Sequence[HostArray], Sequence[str]]
"""Clips [S] at the config's sample rate, and the transcript of each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcStageConfig(StageConfig):
    """How the recogniser is trained.

    Attributes:
        batch_sizes: samples that a batch is padded to: the smallest of these that holds
            its longest clip.
        max_labels: tokens that transcripts are padded to.
        filterbank: whether the first convolution starts as a bank of filters
            (`filterbank_kernel`) instead of at random. It takes a kernel that is long
            enough (16 ms or so) to tell frequencies apart.
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
                mend="set all three",
            )


def character_vocabulary(transcripts: Sequence[str]) -> CtcVocabulary:
    """The characters of `transcripts`, sorted, after the blank and the word delimiter."""
    characters = sorted(set("".join(transcripts)) - {" "})
    return CtcVocabulary(tokens=("<pad>", "|", *characters), blank=0, word_delimiter="|")


def word_vocabulary(transcripts: Sequence[str]) -> CtcVocabulary:
    """The words of `transcripts`, sorted, after the blank: for a small closed set of words.

    Every token ends in a space, so that decoding joins words as it joins characters.
    """
    words = sorted({word for text in transcripts for word in text.split()})
    return CtcVocabulary(tokens=("<pad>", *(f"{word} " for word in words)), word_delimiter=None)


def encode_transcripts(
    transcripts: Sequence[str], vocabulary: CtcVocabulary, size: int
) -> tuple[HostArray, HostArray]:
    """Ids of each transcript's tokens, the longest that fits first, padded with the blank.

    Returns:
        labels [B, size] int32 and their counts [B] int32.

    Raises:
        MrlError: something that no token spells, or a transcript of more tokens than `size`.
    """
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    ids.pop(vocabulary.tokens[vocabulary.blank])
    longest_first = re.compile("|".join(map(re.escape, sorted(ids, key=len, reverse=True))))
    space = vocabulary.word_delimiter or " "
    ending = " " if any(token.endswith(" ") for token in ids) else ""
    labels = np.full((len(transcripts), size), vocabulary.blank, np.int32)
    counts = np.zeros(len(transcripts), np.int32)
    for row, text in enumerate(transcripts):
        spelled = text.replace(" ", space) + (ending if text else "")
        unknown = longest_first.sub("", spelled)
        if unknown:
            raise MrlError(
                f"the vocabulary has no {', '.join(map(repr, sorted(set(unknown))))}",
                where=f"transcript {text!r}",
                mend="make the vocabulary from all transcripts",
            )
        tokens = longest_first.findall(spelled)
        if len(tokens) > size:
            raise MrlError(
                f"has {len(tokens)} tokens, more than the {size} there is room for",
                where=f"transcript {text!r}",
                mend="raise CtcStageConfig.max_labels",
            )
        labels[row, : len(tokens)] = [ids[token] for token in tokens]
        counts[row] = len(tokens)
    return labels, counts


def ctc_losses(
    output: CtcOutput, labels: Int[Array, "B L"], counts: Int[Array, " B"], *, blank: int
) -> Float32[Array, " B"]:
    """Negative log likelihood of each transcript, summed over all its alignments.

    A transcript that needs more frames than its clip has (one a label, and one between
    equal neighbours) has no alignment: its loss is 0, and so is its gradient.

    Args:
        output: of `HubertCtc`.
        labels: token ids, padded on the right.
        counts: ids that count in each row.
        blank: id of the blank.
    """
    place = jnp.arange(labels.shape[1])[None, :]
    padding = (place >= counts[:, None]).astype(jnp.float32)
    losses = optax.ctc_loss(
        output.logits, 1.0 - output.frame_mask.astype(jnp.float32), labels, padding, blank_id=blank
    )
    repeats = (labels[:, 1:] == labels[:, :-1]) & (place[:, 1:] < counts[:, None])
    needed = counts + jnp.sum(repeats.astype(jnp.int32), axis=1)
    possible = jnp.sum(output.frame_mask.astype(jnp.int32), axis=1) >= needed
    return jnp.where(possible, losses, 0.0)


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
            is gone through again and again. Each pair of clips in a batch and padded
            size costs one compilation.
        stage: steps, sizes and rates.
        progress: whether to show a progress bar.

    Returns:
        The trained model; its weights are `nnx.Param`, to be frozen by the caller.

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

    batch = batch_of(0)  # Before the slow part, so that a mistake in it shows at once.
    graphdef, params = nnx.split(_initial(config, vocabulary, stage))
    state = begin(params, stage)
    bar = tqdm(range(stage.steps), desc="ctc", unit="step", disable=not progress)
    before: tuple[int, Any] | None = None
    for number in bar:
        state, loss = _step(state, *batch, graphdef=graphdef, stage=stage, blank=vocabulary.blank)
        if number + 1 < stage.steps:
            batch = batch_of(number + 1)  # While the step is computed.
        if before is not None:  # One step late, for the same reason.
            bar.set_postfix(loss=f"{finite(*before, NAME):.3f}", refresh=False)
        before = number, loss
    if before is not None:
        finite(*before, NAME)
    return nnx.merge(graphdef, result(state))


# Static arguments, so that several trainings in one process compile once.
@functools.partial(jax.jit, static_argnames=("graphdef", "stage", "blank"))
def _step(
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
        losses = ctc_losses(output, labels, counts, blank=blank)
        return jnp.mean(losses / jnp.maximum(counts, 1).astype(jnp.float32))

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return advance(state, gradients, stage), loss


def initial_recogniser(config: HubertConfig, vocabulary: CtcVocabulary, seed: int) -> HubertCtc:
    """A recogniser with random weights.

    Kernels are normal with variance 1/inputs, biases zero, norms the identity.
    """
    module = abstract_hubert_ctc(config, len(vocabulary.tokens), vocabulary=vocabulary)
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], shape: tuple[int, ...]) -> HostArray:
        if path[-1] in ("scale", "magnitude"):
            return np.ones(shape, np.float32)
        if path[-1] == "bias":
            return np.zeros(shape, np.float32)
        inputs = np.prod(shape["layers" in path : -1])  # Stacked layers have an axis in front.
        return rng.standard_normal(shape, dtype=np.float32) / np.sqrt(inputs, dtype=np.float32)

    return fill(module, draw)


def filterbank_kernel(taps: int, channels: int, sample_rate: int) -> HostArray:
    """Windowed sinusoids at mel-spaced frequencies, each in four phases a quarter turn apart.

    After the activation, the four say how strong a frequency is wherever its wave stands.
    Higher ones are louder, against the tilt of speech; the mean norm is 1, that of
    random kernels.

    Returns:
        [taps, 1, channels] float32.
    """
    count = -(-channels // 4)
    low, high = 1127 * np.log1p(np.array([100, 0.475 * sample_rate]) / 700)
    mels = np.linspace(low, high, count)
    hertz = np.repeat(700 * np.expm1(mels / 1127), 4)[:channels]
    phases = np.tile(np.pi / 2 * np.arange(4), count)[:channels]
    seconds = (np.arange(taps) - taps / 2)[:, None] / sample_rate
    waves = np.cos(2 * np.pi * hertz * seconds + phases) * (hertz / 1000) ** 0.7
    waves *= np.hanning(taps + 1)[:-1, None]
    waves /= np.sqrt(np.square(waves).sum(axis=0).mean())
    return waves[:, None, :].astype(np.float32)


def _initial(config: HubertConfig, vocabulary: CtcVocabulary, stage: CtcStageConfig) -> HubertCtc:
    model = initial_recogniser(config, vocabulary, stage.seed)
    return start_as_filterbank(model) if stage.filterbank else model


def start_as_filterbank(model: HubertCtc) -> HubertCtc:
    """Put `filterbank_kernel` into the first convolution, in place; returns `model`."""
    kernel = model.encoder.feature_encoder.blocks[0].conv.kernel
    rate = model.encoder.config.sample_rate
    kernel[...] = jnp.asarray(filterbank_kernel(kernel.shape[0], kernel.shape[2], rate))
    return model
