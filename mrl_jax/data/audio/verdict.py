"""Whether decoded samples are a recording that can be used, and what is wrong otherwise."""

import numpy as np

from mrl_jax.core.array_types import HostArray

FULL_SCALE = 32768
"""The 16-bit value of 1.0."""

_LOUDEST = 4.0
_CANCELLED = 1e-4
"""Power of the mix over the mean power of the channels, 40 dB: nothing of speech is left."""


class Levels:
    """What is seen of a recording's channels while they are mixed down, block by block.

    Attributes:
        frames: in all blocks.
        channels: of each.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.channels = 1
        self._bad, self._first_bad = 0, 0
        self._mixed, self._apart, self._peak = 0.0, 0.0, 0.0

    @property
    def finite(self) -> bool:
        """Whether no sample was NaN or infinite."""
        return not self._bad

    def mix(self, block: HostArray) -> HostArray:
        """The mean of the channels: [S, C] to [S] float32."""
        mixed = block.mean(axis=1)
        bad = np.flatnonzero(~np.isfinite(mixed))
        if bad.size:
            self._first_bad = self._first_bad if self._bad else self.frames + int(bad[0])
            self._bad += bad.size
        elif block.shape[1] > 1:
            self._mixed += float(np.square(mixed, dtype=np.float64).sum())
            self._apart += float(np.square(block, dtype=np.float64).sum()) / block.shape[1]
            self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
        self.channels = block.shape[1]
        self.frames += len(block)
        return mixed

    def problem(self) -> str | None:
        """What is wrong with the channels; `unfit` says it of their mix."""
        if self._bad:
            return (
                f"{self._bad} of {self.frames} samples are NaN or infinite, "
                f"the first is {self._first_bad}"
            )
        if self._peak * FULL_SCALE > 0.5 and self._mixed <= _CANCELLED * self._apart:
            return (
                f"its {self.channels} channels cancel each other when they are mixed (antiphase): "
                "keep one of them"
            )
        return None


def unfit(clip: HostArray) -> str | None:
    """What is wrong with decoded samples [S], if anything."""
    if not clip.size:
        return "holds no samples"
    if not np.isfinite(clip).all():
        bad = np.flatnonzero(~np.isfinite(clip))
        return f"{bad.size} of {clip.size} samples are NaN or infinite, the first is {bad[0]}"
    peak = float(np.abs(clip).max())
    if peak > _LOUDEST:
        return f"samples reach {peak:g}, expected floats from -1 to 1{_scale_of(peak)}"
    if peak * FULL_SCALE <= 0.5:
        return "is silent: all samples are zero" + (" in 16 bits" if peak else "")
    return None


def _scale_of(peak: float) -> str:
    """A guess at whole numbers that were written as floats."""
    for bits in (8, 16, 24, 32):
        if peak <= 2 ** (bits - 1):
            divisor = 2 ** (bits - 1)
            return f": they look like {bits}-bit whole numbers, so divide them by {divisor}"
    return ""
