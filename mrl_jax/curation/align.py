"""Stage `align`: transcripts against their recordings, by forced alignment with a recogniser.

A clip with its transcript gets a score, by which a wrong transcript is found. A long recording
with its whole text becomes one row a sentence (Kürzinger et al., 2020, arXiv 2007.09127).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int

from mrl_jax.checkpoints.towers import TOWER_FILE, load_hubert_ctc, read_info
from mrl_jax.core.arguments import NonNegativeFloat, PositiveFloat, PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.limits import MAX_SECONDS
from mrl_jax.core.paths import PathText, expand_paths, user_path
from mrl_jax.curation.audio import load_audio
from mrl_jax.curation.forced_alignment import BAND, TokenAlignment, align_tokens, frames_needed
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import BrokenRow, RowStage, StageConfig, StageReport
from mrl_jax.curation.transcripts import Speller, Unknown, sentences_of
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.asr import Recogniser, no_vocabulary
from mrl_jax.models.towers import RECOGNISERS

BATCH = 8
"""Windows that are recognised at once."""
OVERLAP = 2.0
"""Seconds at each end of a window that its neighbour knows better."""
MIN_SCORE = -3.0
"""Nats a token: nearly all transcripts of other clips are below, see docs/curation_models.md."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignConfig(StageConfig):
    """How transcripts are aligned.

    Attributes:
        recogniser: tower folder of a recogniser of the spoken language.
        text_tower: folder of the text tower whose tokens the recogniser writes; "" for a
            recogniser of characters or words.
        cut: "no" scores each clip and its transcript; "sentences" makes a row of each sentence.
        min_score: rows below are dropped; None keeps all.
        plain: transcripts are aligned without case and punctuation.
        unknown: "drop" drops a transcript with characters that the recogniser does not have,
            "skip" leaves them out of it.
        free_ends: what a recording says before and after its text costs little; for "sentences".
        pad_seconds: most that a sentence is longer at either end than its outputs last.
        band: see `align_tokens`.
        window_seconds: longer recordings are recognised in windows of so many seconds, as
            attention over an hour takes long and no recogniser was trained for it.
        max_seconds: longer recordings are dropped.
    """

    name: str = "align"
    recogniser: PathText
    text_tower: PathText = ""
    cut: Literal["no", "sentences"] = "no"
    min_score: float | None = MIN_SCORE
    plain: bool = True
    unknown: Unknown = "drop"
    free_ends: bool = True
    pad_seconds: NonNegativeFloat = 0.1
    band: PositiveInt = BAND
    window_seconds: PositiveFloat = 30.0
    max_seconds: PositiveFloat = MAX_SECONDS

    def __post_init__(self) -> None:
        expand_paths(self, f"stages.{self.name}")
        if self.window_seconds < 4 * OVERLAP:
            where, problem = f"stages.{self.name}.window_seconds", f"is {self.window_seconds:g} s"
            hint = "30 is a usual length of training clips"
            raise MrlError(f"{problem}, expected {4 * OVERLAP:g} or more", where=where, hint=hint)
        if self.min_score is not None and not self.min_score <= 0:
            where, problem = f"stages.{self.name}.min_score", f"is {self.min_score:g}"
            hint = "scores are 0 or less"
            raise MrlError(f"{problem}, expected 0 or less", where=where, hint=hint)
        if not self.recogniser:
            hint = "name the tower folder of a recogniser, for example RUN/tower of a `ctc` run"
            raise MrlError("is empty", where=f"stages.{self.name}.recogniser", hint=hint)


class Align(RowStage):
    """Measures `score` and `tokens`; with `cut` also `sentence`, its number from 1.

    Rows without a recording or a transcript pass unchanged.

    Raises:
        MrlError: the folder holds no recogniser, or one without a vocabulary; it writes the tokens
            of a text tower, and that is not given.
    """

    def __init__(self, config: AlignConfig):
        self.config, self.name = config, config.name
        keys = ("score", "tokens", *(("sentence",) if config.cut == "sentences" else ()))
        self.measures = tuple(f"{self.name}.{key}" for key in keys)
        folder = user_path(config.recogniser)
        info = read_info(folder, expected=RECOGNISERS)
        if info.vocabulary is None:
            raise no_vocabulary(folder)
        self.extra_inputs = (str(folder / TOWER_FILE),)
        tokenizer = TextTokenizer(config.text_tower) if config.text_tower else None
        Speller(info.vocabulary, tokenizer)  # Refuses another text tower, before anything runs.

    @functools.cached_property
    def _recogniser(self) -> Recogniser:
        model = load_hubert_ctc(self.config.recogniser)
        return Recogniser(model, batch_size=BATCH, max_seconds=None)

    @functools.cached_property
    def _speller(self) -> Speller:
        config = self.config
        tokenizer = TextTokenizer(config.text_tower) if config.text_tower else None
        return Speller(
            self._recogniser.vocabulary, tokenizer, plain=config.plain, unknown=config.unknown
        )

    def apply(self, row: Row) -> Sequence[Row]:
        if row.audio is None or not (row.transcript or "").strip():
            return (row,)
        if self.config.cut == "sentences":
            return self._cut(row)
        labels = self._speller.labels(row.transcript or "", where=f"row {row.id!r}")
        alignment, _ = self._align(row, labels, free_ends=False)
        score = alignment.score / len(labels)
        return (self._judge(row.with_measured(self.name, score=score, tokens=len(labels))),)

    def _align(
        self, row: Row, labels: HostArray, *, free_ends: bool
    ) -> tuple[TokenAlignment, HostArray]:
        """The alignment of a row's clip, and its samples."""
        where = f"row {row.id!r}"
        recogniser = self._recogniser
        config = recogniser.config
        # One of hours is not even decoded.
        seconds, clip = row.seconds or 0.0, np.zeros(0, np.float32)
        if seconds <= self.config.max_seconds:
            clip = load_audio(row, config.sample_rate)
            seconds = len(clip) / config.sample_rate
        if seconds > self.config.max_seconds:
            problem = f"is longer than max_seconds, {self.config.max_seconds:g}"
            raise BrokenRow(problem, where=where, hint="cut it into parts, or raise max_seconds")
        if config.frame_count(len(clip)) < frames_needed(labels):
            raise BrokenRow(
                f"the transcript of {len(labels)} tokens is too long for "
                f"{len(clip) / config.sample_rate:.1f} s of audio, "
                f"{config.frame_count(len(clip))} frames",
                where=where,
                hint="it is likely to be another clip's",
            )
        try:
            log_probs = log_probs_in_windows(recogniser, clip, self.config.window_seconds)
        except MrlError as error:  # Too long, or no room for it.
            raise BrokenRow(error.problem, where=where, hint=error.hint) from error
        options = {"blank": recogniser.vocabulary.blank, "band": self.config.band}
        return align_tokens(log_probs, labels, free_ends=free_ends, **options), clip

    def _cut(self, row: Row) -> list[Row]:
        """One row a sentence, in place of the row."""
        sentences = sentences_of(row.transcript or "")
        texts = sentences_of(row.text) if row.text else []
        where = f"row {row.id!r}"
        spelled = [self._sentence_labels(text, where) for text in sentences]
        parts = [part for part in spelled if part is not None]
        if not parts:
            raise BrokenRow("the transcript has nothing that the recogniser writes", where=where)
        alignment, clip = self._align(row, np.concatenate(parts), free_ends=self.config.free_ends)
        config = self._recogniser.config
        spans = sentence_spans(
            alignment,
            [len(part) for part in parts],
            clip,
            frame_samples=config.frame_samples,
            offset=(config.min_samples - config.frame_samples) // 2,
            pad=round(self.config.pad_seconds * config.sample_rate),
        )
        scores = sentence_scores(alignment, [len(part) for part in parts])
        found = iter(zip(parts, spans, scores, strict=True))
        rows = []
        for number, (sentence, labels) in enumerate(zip(sentences, spelled, strict=True)):
            new = dataclasses.replace(
                row,
                id=f"{row.id}-{number + 1:04}",
                transcript=sentence,
                text=texts[number] if len(texts) == len(sentences) else None,
                document_id=None if row.document_id is None else f"{row.document_id}-{number + 1}",
            ).note(self.name, f"sentence {number + 1} of {len(sentences)} of {row.id}")
            if labels is None:
                new = dataclasses.replace(new, audio=None, start=0.0, end=None)
                rows.append(new.drop(self.name, "has nothing that the recogniser writes"))
                continue
            part, span, score = next(found)
            begin, end = (row.start + int(at) / config.sample_rate for at in span)
            new = dataclasses.replace(new, start=begin, end=end)
            measured = {"score": score, "tokens": len(part), "sentence": number + 1}
            rows.append(self._judge(new.with_measured(self.name, **measured)))
        return rows

    def _sentence_labels(self, sentence: str, where: str) -> HostArray | None:
        """`Speller.labels`; None of a line of dashes, say, which is left out of the whole."""
        try:
            return self._speller.labels(sentence, where=where)
        except BrokenRow:
            if self.config.unknown == "drop" and plain_text(sentence):
                raise
            return None

    def _judge(self, row: Row) -> Row:
        least = self.config.min_score
        score = row.measured[f"{self.name}.score"]
        if least is not None and score < least:  # pyright: ignore[reportOperatorIssue] - a float.
            return row.drop(self.name, f"score is {score:.2f}, expected {least:g} or more")
        return row

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport:
        """Scores as a histogram, and the rows with the lowest."""
        key = f"{self.name}.score"
        scored = sorted((r for r in after if key in r.measured), key=lambda r: r.measured[key])
        worst = tuple(
            (row.id, f"{row.measured[key]:.2f}", (row.transcript or "")[:80]) for row in scored[:5]
        )
        return StageReport(
            title="Transcripts against recordings",
            headings=("lowest scores", "score", "transcript"),
            table=worst,
            figure=_histogram([float(row.measured[key]) for row in scored], self.config.min_score),
            text="The score is the log-probability of the transcript's best path less that of "
            "greedy decoding, in nats a token: 0 where the recogniser would write just this.",
        )


def log_probs_in_windows(
    recogniser: Recogniser, clip: HostArray, seconds: float
) -> Float32[HostArray, "T V"]:
    """The recogniser's log-probabilities at every frame of a clip of any length.

    A longer clip is read in windows that overlap; frames near the ends of one come from its
    neighbour, where they stand further inside.

    Args:
        clip: [S] at the recogniser's rate.
        seconds: of a window.
    """
    config = recogniser.config
    hop = config.frame_samples
    if len(clip) <= seconds * config.sample_rate:
        return recogniser.log_probs([clip])[0]
    size, margin = (round(x * config.sample_rate / hop) for x in (seconds, OVERLAP))
    frames, step = config.frame_count(len(clip)), size - 2 * margin
    # The last window ends with the clip, as a short rest may be less than a frame.
    last = max(frames - size, 0)
    starts = [*range(0, last, step), last]
    samples = (size - 1) * hop + config.min_samples
    windows = [clip[start * hop : start * hop + samples] for start in starts]
    outputs = recogniser.log_probs(windows)
    whole = np.empty((frames, outputs[0].shape[1]), np.float32)
    for start, own in zip(starts, outputs, strict=True):
        skipped = margin if start else 0
        whole[start + skipped : start + len(own)] = own[skipped:]
    return whole


@checked
def sentence_scores(
    alignment: TokenAlignment, sizes: Sequence[PositiveInt]
) -> Float64[HostArray, " sentences"]:
    """Score of each sentence, a token; the blanks between two count for the nearer one.

    Args:
        sizes: tokens of each sentence, in order.
    """
    counts = np.asarray(sizes, np.int64)
    stops = np.cumsum(counts)
    first, last = alignment.first[stops - counts], alignment.last[stops - 1]
    cuts = np.concatenate(([0], (last[:-1] + first[1:] + 1) // 2, [len(alignment.frame_scores)]))
    totals = np.add.reduceat(alignment.frame_scores, cuts[:-1])
    return totals / counts


@checked
def sentence_spans(
    alignment: TokenAlignment,
    sizes: Sequence[PositiveInt],
    clip: Float32[HostArray, " S"],
    *,
    frame_samples: PositiveInt,
    offset: int,
    pad: int,
) -> Int[HostArray, "sentences 2"]:
    """First sample of each sentence, and the one behind its last.

    Between two sentences the recording is cut where it is quietest. A sentence lasts from its
    first output to its last, and at most `pad` samples longer at either end, not beyond a cut.

    Args:
        sizes: tokens of each sentence, in order.
        clip: the recording.
        frame_samples: from one frame to the next.
        offset: from the start of a frame's samples to those that it stands for.
        pad: samples.
    """
    counts = np.asarray(sizes, np.int64)
    stops = np.cumsum(counts)
    begins = alignment.first[stops - counts] * frame_samples + offset
    ends = np.minimum((alignment.last[stops - 1] + 1) * frame_samples + offset, len(clip))
    cuts = [0]
    for end, begin in zip(ends[:-1], begins[1:], strict=True):
        cuts.append(_quietest(clip, int(end), int(max(begin, end + 1)), frame_samples))
    cuts.append(len(clip))
    low, high = np.asarray(cuts[:-1]), np.asarray(cuts[1:])
    return np.stack((np.maximum(begins - pad, low), np.minimum(ends + pad, high)), axis=1)


def _quietest(clip: HostArray, start: int, stop: int, size: int) -> int:
    """Middle of the quietest stretch of `size` samples; of equal ones, of the middle one."""
    if stop - start <= size:
        return (start + stop) // 2
    power = np.concatenate(([0.0], np.cumsum(np.square(clip[start:stop], dtype=np.float64))))
    sums = power[size:] - power[:-size]
    best = np.flatnonzero(sums <= sums.min() + 1e-9)
    return start + int(best[len(best) // 2]) + size // 2


def _histogram(scores: Sequence[float], least: float | None) -> object:
    if not scores:
        return None
    from mrl_jax.evaluation.report.plotting import figure

    drawing, axes = figure()
    low = math.floor(max(min(scores), -12.0))
    axes.hist(np.maximum(scores, low), bins=np.linspace(low, 0.0, 49))
    if least is not None:
        axes.axvline(least, color="black", linestyle="--")
    axes.set_xlabel("nats a token")
    axes.set_ylabel("rows")
    return drawing
