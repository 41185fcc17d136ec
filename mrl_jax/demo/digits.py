"""Strings of three spoken digits, joined from recorded single digits of one speaker.

The recordings are those of the Free Spoken Digit Dataset: English digits, one file
each, named `{digit}_{speaker}_{take}.wav`. A string such as "371" is a query in
English speech; its document is the French wording, "trois sept un". Of the 1,000
strings some are for training, the others for the test only.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.decode import load_clip

ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FRENCH = ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf")
SAMPLE_RATE = 8_000
"""Samples a second of the recordings themselves."""


@dataclasses.dataclass(frozen=True)
class Take:
    """One recording of one digit.

    Attributes:
        digit: 0 to 9.
        speaker: the speaker's name.
        take: number of the recording among those of this digit by this speaker, from 0.
        clip: [S] float32, silence at both ends removed.
    """

    digit: int
    speaker: str
    take: int
    clip: HostArray


def load_takes(folder: str | Path, sample_rate: int = SAMPLE_RATE) -> list[Take]:
    """Read every `{digit}_{speaker}_{take}.wav` of a folder, in order of name, at this rate.

    Raises:
        MrlError: no such folder, none of these files in it, or one that cannot be read.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise MrlError("no such folder", where=folder, hint="pass the folder of the recordings")
    takes = []
    for path in sorted(folder.glob("*.wav")):
        match = re.fullmatch(r"(\d)_(\w+)_(\d+)", path.stem)
        if match:
            clip = trim_silence(load_clip(path, sample_rate), sample_rate)
            takes.append(Take(int(match[1]), match[2], int(match[3]), clip))
    if not takes:
        problem = "holds no recording named {digit}_{speaker}_{take}.wav"
        hint = "pass the `recordings` folder of the Free Spoken Digit Dataset"
        raise MrlError(problem, where=folder, hint=hint)
    return takes


def trim_silence(clip: HostArray, sample_rate: int) -> HostArray:
    """Cut both ends where 10 ms stay more than 35 dB under the loudest 10 ms.

    30 ms are left on each side, so that weak consonants survive.
    """
    size = max(sample_rate // 100, 1)
    blocks = clip[: clip.size // size * size].reshape(-1, size)
    if not len(blocks):
        return clip
    power = np.square(blocks, dtype=np.float32).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10**-3.5)
    if not loud.size:
        return clip
    first, last = max(loud[0] - 3, 0), loud[-1] + 4
    return clip[first * size : last * size]


def split_strings(*, seed: int = 0) -> tuple[list[str], list[str]]:
    """All strings "000" to "999", divided into 800 for training and 200 for the test, sorted."""
    order = np.random.default_rng(seed).permutation(1000).tolist()
    train, test = (sorted(f"{n:03d}" for n in part) for part in (order[200:], order[:200]))
    return train, test


def english(string: str) -> str:
    """The English wording: "371" is "three seven one"."""
    return " ".join(ENGLISH[int(digit)] for digit in string)


def french(string: str) -> str:
    """The French wording: "371" is "trois sept un"."""
    return " ".join(FRENCH[int(digit)] for digit in string)


class DigitVoices:
    """Recordings by speaker and digit, which are joined to strings.

    Args:
        takes: the recordings to draw from, at `SAMPLE_RATE`.

    Raises:
        MrlError: a speaker lacks a digit.
    """

    def __init__(self, takes: Iterable[Take]):
        clips: dict[str, list[list[HostArray]]] = {}
        for take in takes:
            clips.setdefault(take.speaker, [[] for _ in range(10)])[take.digit].append(take.clip)
        for speaker, by_digit in clips.items():
            missing = [str(digit) for digit in range(10) if not by_digit[digit]]
            if missing:
                raise MrlError(
                    f"speaker {speaker} has no recording of {', '.join(missing)}",
                    where="the takes of the spoken digits",
                    hint="pass takes that hold all ten digits of each speaker",
                )
        self._clips = clips
        self.speakers = sorted(clips)

    def speak(
        self,
        string: str,
        rng: np.random.Generator,
        *,
        speaker: str | None = None,
        gap_seconds: tuple[float, float] = (0.02, 0.15),
    ) -> HostArray:
        """[S] float32: a random take of each digit by one speaker, random gaps between.

        Args:
            string: digits, "371".
            rng: draws speaker, takes and gaps.
            speaker: who speaks; drawn where None.
            gap_seconds: shortest and longest silence between two digits.
        """
        speaker = speaker or self.speakers[rng.integers(len(self.speakers))]
        parts: list[HostArray] = []
        for digit in string:
            choices = self._clips[speaker][int(digit)]
            clip = choices[rng.integers(len(choices))]
            if parts:
                gap = rng.uniform(*gap_seconds) * SAMPLE_RATE
                parts.append(np.zeros(int(gap), np.float32))
            parts.append(fade_ends(clip))
        return np.concatenate(parts)


def fade_ends(clip: HostArray) -> HostArray:
    """Raise and lower 5 ms at each end linearly, so that joining makes no click."""
    size = min(SAMPLE_RATE // 200, clip.size // 2)
    faded = clip.astype(np.float32, copy=True)
    if size:
        ramp = np.arange(1, size + 1, dtype=np.float32) / size
        faded[:size] *= ramp
        faded[-size:] *= ramp[::-1]
    return faded
