"""Forced alignment: the most probable CTC path that writes given tokens, by Viterbi.

The states of a path are the tokens with a blank before, between and after them (Graves et al.,
2006). Of N tokens there are 2 N + 1; at frame t only a band of them around the diagonal is
looked at. Back pointers of a whole recording would take gigabytes, so scores are kept at a few
frames and the pointers between two of them are computed again, the last stretch first: an hour
takes memory that grows with the square root of its length.

Scores are differences to the best output of each frame, so that they are 0 where the recogniser
would write just this, and do not depend on how sure it is where nothing is said.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError

BAND = 4000
"""States that are looked at around the diagonal at first; twice as many where they are too few."""
FREE = -1.0
"""Least score of a frame outside of the text, where that is free. Were it 0, the first and last
tokens would give up all their frames but one."""
_LEAST = 16
"""Below that the band would not hold both ends of the diagonal."""
_EDGE = 8
"""A path that comes so near to an edge of its band might be better outside."""


@dataclasses.dataclass(frozen=True)
class TokenAlignment:
    """Where each token stands.

    Attributes:
        first, last: frames of each token, both inclusive.
        frame_scores: log-probability of the path's output less that of the frame's best one;
            0 or less.
        band: states that were looked at.
    """

    first: Int[HostArray, " N"]
    last: Int[HostArray, " N"]
    frame_scores: Float64[HostArray, " T"]
    band: int

    @property
    def score(self) -> float:
        """The whole path less the best one of greedy decoding: 0 where they are the same."""
        return float(self.frame_scores.sum())


@checked
def frames_needed(tokens: Int[HostArray, " N"]) -> int:
    """The fewest frames that write the tokens: a blank parts equal neighbours."""
    return len(tokens) + int((tokens[1:] == tokens[:-1]).sum())


@checked
def align_tokens(
    log_probs: Float[HostArray, "T V"],
    tokens: Int[HostArray, " N"],
    *,
    blank: int = 0,
    free_ends: bool = False,
    band: PositiveInt = BAND,
) -> TokenAlignment:
    """The best path of the tokens through all frames.

    Args:
        log_probs: of each output at each frame; of logits the result is the same.
        tokens: at least one, none of them the blank.
        blank: the CTC blank.
        free_ends: what is said before the first and after the last token costs `FREE` a frame at
            most.
        band: states that are looked at around the diagonal at first. Where the path comes near
            to its edges, or there is none, it is widened until neither is so.

    Raises:
        ArgumentError: no token; one that is the blank or no output.
        MrlError: fewer frames than `frames_needed`.
    """
    _check_tokens(tokens, log_probs.shape[1], blank)
    frames, needed = len(log_probs), frames_needed(tokens)
    if frames < needed:
        raise MrlError(
            f"there are {frames} frames for {len(tokens)} tokens, which take {needed} or more",
            hint="the text is too long for the recording: correct either",
        )
    lattice = _Lattice(log_probs, tokens, blank, free_ends)
    while True:
        width = min(max(band, _LEAST), lattice.size)
        path = lattice.best_path(width)
        if width == lattice.size or (path is not None and not lattice.is_near_edge(path, width)):
            break
        band *= 2
    assert path is not None  # All states are looked at, and there are frames enough.
    return _as_alignment(path, lattice, width)


def _check_tokens(tokens: HostArray, outputs: int, blank: int) -> None:
    if not len(tokens):
        raise ArgumentError("there are no tokens to align")
    wrong = (tokens < 0) | (tokens >= outputs) | (tokens == blank)
    if wrong.any():
        raise ArgumentError(
            f"token {tokens[wrong.argmax()]} is the blank or no output, expected others of "
            f"0 to {outputs - 1}"
        )


class _Lattice:
    """Scores and moves of the states; a path is one state a frame, [T]."""

    def __init__(self, log_probs: HostArray, tokens: HostArray, blank: int, free_ends: bool):
        used, places = np.unique(np.append(tokens, blank), return_inverse=True)
        best = log_probs.max(axis=1, keepdims=True)
        relative = log_probs[:, used].astype(np.float64) - best
        # Impossible outputs stay comparable, so that there is a path wherever frames allow one.
        self.emissions = np.maximum(np.nan_to_num(relative, nan=0.0, neginf=-1e6), -1e6)
        self.size, self.frames = 2 * len(tokens) + 1, len(log_probs)
        self.column = np.full(self.size, places[-1], np.int32)
        self.column[1::2] = places[:-1]
        # A token may follow the one before it without a blank, unless they are equal.
        self.skip = np.full(self.size, -np.inf)
        self.skip[3::2] = np.where(tokens[1:] != tokens[:-1], 0.0, -np.inf)
        self.free_ends = free_ends

    def start(self, frame: int, width: int) -> int:
        """The band's first state at a frame."""
        centre = self.size * (frame + 1) // (self.frames + 1)
        return min(max(centre - width // 2, 0), self.size - width)

    def emitted(self, frame: int, start: int, out: HostArray) -> HostArray:
        """Scores [W] of the band's states at a frame, written into `out`."""
        stop = start + len(out)
        self.emissions[frame].take(self.column[start:stop], out=out, mode="clip")
        if self.free_ends:
            if start == 0:
                out[0] = max(out[0], FREE)
            if stop == self.size:
                out[-1] = max(out[-1], FREE)
        return out

    def step(self, scores: HostArray, frame: int, width: int, moves: HostArray | None) -> HostArray:
        """Scores [W] at a frame from those at the one before.

        Moves [W] are written: 0 or 1 states, or 2 or 3 for two.
        """
        before, start = self.start(frame - 1, width), self.start(frame, width)
        shift = start - before
        padded = np.full(width + 2 + shift, -np.inf)
        padded[2 : 2 + width] = scores
        best = padded[2 + shift :].copy()
        one = padded[1 + shift : 1 + shift + width]
        two = padded[shift : shift + width] + self.skip[start : start + width]
        if moves is not None:
            np.greater(one, best, out=moves, casting="unsafe")
        np.maximum(best, one, out=best)
        if moves is not None:
            moves |= (two > best).view(np.uint8) << 1
        np.maximum(best, two, out=best)
        best += self.emitted(frame, start, two)
        return best

    def best_path(self, width: int) -> HostArray | None:
        """The state at each frame [T]; None where no path stays within the band."""
        stretch = max(1, math.isqrt(self.frames))
        scores = self.emitted(0, 0, np.empty(width))
        scores[2:] = -np.inf
        kept = [scores]
        for frame in range(1, self.frames):
            scores = self.step(scores, frame, width, None)
            if frame % stretch == 0:
                kept.append(scores)
        last = scores[-2:]
        if not np.isfinite(last.max()):
            return None
        path = np.empty(self.frames, np.int64)
        state = self.size - len(last) + int(last.argmax())
        moves = np.empty((stretch, width), np.uint8)
        for turn in range(len(kept) - 1, -1, -1):
            first, stop = turn * stretch, min((turn + 1) * stretch + 1, self.frames)
            scores = kept[turn]
            for frame in range(first + 1, stop):
                scores = self.step(scores, frame, width, moves[frame - first - 1])
            if stop == self.frames:
                path[stop - 1] = state
            for frame in range(stop - 1, first, -1):
                state -= min(int(moves[frame - first - 1, state - self.start(frame, width)]), 2)
                path[frame - 1] = state
        return path

    def is_near_edge(self, path: HostArray, width: int) -> bool:
        """Whether states of the path are next to some that were not looked at."""
        starts = np.asarray([self.start(frame, width) for frame in range(self.frames)])
        low = (path - starts < _EDGE) & (starts > 0)
        high = (starts + width - path <= _EDGE) & (starts + width < self.size)
        return bool((low | high).any())


def _as_alignment(path: HostArray, lattice: _Lattice, width: int) -> TokenAlignment:
    frames = np.arange(len(path))
    scores = lattice.emissions[frames, lattice.column[path]]
    if lattice.free_ends:
        is_end = (path == 0) | (path == lattice.size - 1)
        scores = np.where(is_end, np.maximum(scores, FREE), scores)
    wanted = 2 * np.arange(lattice.size // 2) + 1
    first = np.searchsorted(path, wanted, side="left")
    last = np.searchsorted(path, wanted, side="right") - 1
    return TokenAlignment(first, last, scores, width)


@checked
def token_frames(alignment: TokenAlignment, frames: PositiveInt) -> Bool[HostArray, " T"]:
    """Which of the frames belong to tokens rather than to blanks."""
    inside = np.zeros(frames, bool)
    for first, last in zip(alignment.first, alignment.last, strict=True):
        inside[first : last + 1] = True
    return inside
