"""Acoustic fingerprints: which clips are copies of one recording, whatever their encoding.

The scheme is that of Haitsma and Kalker, "A highly robust audio fingerprinting system" (ISMIR
2002): a frame is 32 bits, the signs of how differences between neighbouring bands change in time.
They do not depend on volume, and hardly on codec, bandwidth or a little noise. Frames overlap by
31 in 32, so a copy that was cut anywhere has frames at nearly the same places.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float32, UInt32

from mrl_jax.core.arguments import Range, checked
from mrl_jax.core.array_types import HostArray

RATE = 5_000
"""Samples a second of the clips: the highest band ends at 2 kHz."""
WINDOW, HOP = 1850, 58
"""Samples of a frame, 0.37 s, and from one frame to the next, 11.6 ms."""
_FFT = 2048
_LOWEST, _HIGHEST, _BANDS = 300.0, 2000.0, 33
_BLOCK = 512
"""Frames whose spectra are held at once."""
_QUIET = 1e-4
"""Share of the loudest frame's energy below which a frame is silence: 40 dB."""
_STEADY = 3e-3
"""Share of a frame's energy that changes from the frame before; below, it is a hum or a beep."""
_SHORTEST = 1.0
"""Seconds of sound; with fewer a clip is like no other."""
_WHOLE = 0.9
"""Share of the shorter clip's sound that counts as all of it: noise hides its quietest frames."""
_FULL_BUCKET = 64
"""Indexed frames of one code that are looked at: frequent codes tell little."""
_VERIFIED = 32
"""Alignments of a clip that are verified, those with the most equal frames."""
_VARIANTS = np.concatenate([[0], 1 << np.arange(32)]).astype(np.uint32)
"""A code, and those that differ from it in one bit."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class FingerprintConfig:
    """When two clips count as the same recording.

    Attributes:
        bit_errors: the largest share of bits that differ where the clips overlap; about 0.5 for
            unrelated clips.
        seconds: of sound that the overlap has at least, silence and steady tones left out; where
            a clip has less, the whole clip, and at least a second.
    """

    bit_errors: Annotated[float, Range(0.0, 0.4)] = 0.25
    seconds: Annotated[float, Range(1.0, 3600.0)] = 2.0


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """A clip's frames.

    Attributes:
        codes: 32 bits of each frame.
        active: frames that are neither silence nor a steady tone.
    """

    codes: UInt32[HostArray, " T"]
    active: Bool[HostArray, " T"]


@dataclasses.dataclass(frozen=True)
class Match:
    """An indexed clip that is a copy.

    Attributes:
        clip: its place in the index.
        bit_errors: share of differing bits.
        offset: frames by which the clip that was looked up begins later than the indexed one.
    """

    clip: int
    bit_errors: float
    offset: int


def fingerprint(clip: Float32[HostArray, " S"]) -> Fingerprint:
    """The fingerprint of a clip at `RATE`; one shorter than two frames has none."""
    energies = _band_energies(clip)
    if len(energies) < 2:
        return Fingerprint(np.zeros(0, np.uint32), np.zeros(0, bool))
    change = np.diff(np.diff(energies, axis=1), axis=0)
    bits = np.packbits(change > 0, axis=1)
    codes = np.ascontiguousarray(bits).view(">u4")[:, 0].astype(np.uint32)
    total = energies.sum(axis=1)
    moved = np.abs(np.diff(energies, axis=0)).sum(axis=1)
    now = total[1:]
    active = (now > _QUIET * total.max()) & (moved > _STEADY * now)
    return Fingerprint(codes, active)


def _band_energies(clip: Float32[HostArray, " S"]) -> Float32[HostArray, "T bands"]:
    if len(clip) < WINDOW:
        return np.zeros((0, _BANDS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(clip, WINDOW)[::HOP]
    window = np.hanning(WINDOW).astype(np.float32)
    edges = np.geomspace(_LOWEST, _HIGHEST, _BANDS + 1) * _FFT / RATE
    bins = np.rint(edges).astype(np.int64)
    parts = []
    for begin in range(0, len(frames), _BLOCK):
        whole: Any = scipy.fft.rfft(frames[begin : begin + _BLOCK] * window, _FFT)
        spectra = whole[:, : bins[-1]]
        power = spectra.real**2 + spectra.imag**2
        parts.append(np.add.reduceat(power, bins[:-1], axis=1))
    return np.concatenate(parts)


def frames_of(seconds: float) -> int:
    """Frames that span so many seconds."""
    return max(round((seconds * RATE - WINDOW) / HOP), 0) + 1


class FingerprintIndex:
    """Clips in which copies of others are looked up, in time that hardly grows with their number.

    An equal frame, or one with a single other bit, proposes an alignment; the bit errors of all
    frames that overlap in it decide.
    """

    def __init__(self, clips: Sequence[Fingerprint], config: FingerprintConfig):
        self._clips, self._config = clips, config
        self._starts = np.cumsum([0, *(len(clip.codes) for clip in clips)])
        codes = np.concatenate([np.zeros(0, np.uint32), *(clip.codes for clip in clips)])
        active = np.concatenate([np.zeros(0, bool), *(clip.active for clip in clips)])
        places = np.flatnonzero(active)
        order = np.argsort(codes[places], kind="stable")
        self._places, self._codes = places[order], codes[places][order]

    def find(self, clip: Fingerprint) -> Match | None:
        """The indexed clip with the fewest bit errors, the first of equal ones, that is a copy."""
        best: Match | None = None
        if clip.active.sum() < frames_of(_SHORTEST):
            return None
        for place, offset in self._alignments(clip):
            errors = self._bit_errors(clip, place, offset)
            if errors is None or errors > self._config.bit_errors:
                continue
            match = Match(place, errors, offset)
            if best is None or (errors, place, offset) < (best.bit_errors, best.clip, best.offset):
                best = match
        return best

    def _alignments(self, clip: Fingerprint) -> list[tuple[int, int]]:
        """Indexed clips and offsets in which the most frames agree."""
        frames = np.flatnonzero(clip.active)
        wanted = (clip.codes[frames, None] ^ _VARIANTS).ravel()
        first = np.searchsorted(self._codes, wanted)
        count = np.minimum(np.searchsorted(self._codes, wanted, "right") - first, _FULL_BUCKET)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        places = self._places[np.repeat(first, count) + within]
        own = np.repeat(np.repeat(frames, len(_VARIANTS)), count)
        clips = np.searchsorted(self._starts, places, "right") - 1
        width = 2 * int(self._starts[-1]) + 2 * len(clip.codes)  # More than offsets are apart.
        offsets = places - self._starts[clips] - own
        keys, votes = np.unique(clips * width + offsets + len(clip.codes), return_counts=True)
        chosen = keys[np.argsort(-votes, kind="stable")[:_VERIFIED]]
        return [(int(key // width), int(key % width) - len(clip.codes)) for key in chosen]

    def _bit_errors(self, clip: Fingerprint, place: int, offset: int) -> float | None:
        """Share of bits that differ in an alignment; None where too little overlaps."""
        other = self._clips[place]
        begin, end = max(0, -offset), min(len(clip.codes), len(other.codes) - offset)
        here, there = slice(begin, end), slice(begin + offset, end + offset)
        both = clip.active[here] & other.active[there]
        shorter = min(int(clip.active.sum()), int(other.active.sum()))
        wanted = min(frames_of(self._config.seconds), int(_WHOLE * shorter))
        if both.sum() < max(wanted, int(_WHOLE * frames_of(_SHORTEST))):
            return None
        differ = np.bitwise_count(clip.codes[here][both] ^ other.codes[there][both])
        return float(differ.mean() / 32)
