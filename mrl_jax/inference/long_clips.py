"""Which clips are too long: by a limit in seconds, and by the memory that they would need."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.memory import free_memory
from mrl_jax.models.fusion import FusionModel
from mrl_jax.models.soft_ctc import SoftCtc
from mrl_jax.models.two_towers import TwoTowers

SHORT_SECONDS = 60.0
"""Clips that need too little memory to be asked about."""
REST = 500_000_000
"""Bytes beside what grows with a clip: blocks of frames, and what XLA compiles."""


def check_max_seconds(max_seconds: float | None) -> float:
    """The limit in seconds, infinite for None.

    Raises:
        MrlError: not a number above 0.
    """
    if max_seconds is None:
        return math.inf
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, int | float):
        problem = f"max_seconds is {max_seconds!r}, expected a number of seconds"
        raise MrlError(problem, hint="leave it out for an hour")
    if not max_seconds > 0:
        raise MrlError(f"max_seconds is {max_seconds}, expected more than 0")
    return float(max_seconds)


def check_lengths(
    clips: Sequence[HostArray], names: Sequence[object], model: Any, max_seconds: float
) -> None:
    """Refuse a clip that is longer than the limit, or that there is no memory for.

    Args:
        clips: [S] each, at the tower's sample rate.
        names: of each, for the error.
        model: `TwoTowers`, or a recogniser (`models.ctc.HubertCtc`).
        max_seconds: the limit.

    Raises:
        MrlError: with an estimate of the memory.
    """
    if not len(clips):
        return
    longest = int(np.argmax([np.size(clip) for clip in clips]))
    rate = _tower(model).config.sample_rate
    check_seconds(np.size(clips[longest]) / rate, names[longest], model, max_seconds)


def check_seconds(seconds: float, name: object, model: Any, max_seconds: float) -> None:
    """`check_lengths` of one clip of so many seconds."""
    needed = clip_memory(model, min(seconds, 1e9))
    about = f"about {needed / 1e9:,.1f} GB of memory"
    if seconds > max_seconds:
        raise MrlError(
            f"the recording is {seconds:,.1f} s long, more than max_seconds, {max_seconds:,g}; "
            f"it would take {about}",
            where=name,
            hint="cut it into parts, or raise max_seconds (--max-seconds)",
        )
    if seconds <= SHORT_SECONDS:
        return
    free = free_memory()
    if free is not None and needed > free:
        raise MrlError(
            f"the recording is {seconds:,.1f} s long and takes {about}, of which "
            f"{max(free, 0) / 1e9:,.1f} GB are free",
            where=name,
            hint="cut it into parts, or embed it where there is more memory",
        )


def clip_memory(model: Any, seconds: float) -> int:
    """An estimate of the bytes that one clip takes beside the weights, as it is embedded alone.

    Linear in its seconds. Counted are the samples (as they come, normalised, padded and in the
    model), the speech tower's states at work, the output of each layer where the head reads
    them all, and what the text tower computes from speech tokens.
    """
    tower = _tower(model)
    config, item = tower.config, np.dtype(tower.dtype).itemsize
    frames = seconds * config.sample_rate / config.frame_samples
    at_work = 7 * config.width * item
    of_samples = 6 * 4 * config.frame_samples
    states = config.num_layers * config.width * item if isinstance(model, TwoTowers) else 0
    per_frame = at_work + of_samples + 2 * states
    if isinstance(model, FusionModel):
        text = model.text.config
        tokens = 0.5
        if isinstance(model, SoftCtc):
            tokens = min(model.config.max_tokens_per_second * seconds / max(frames, 1), 1.0)
            per_frame += 12 * int(model.ctc.kernel.shape[1])
        heads = (text.num_heads + 2 * text.num_kv_heads) * text.head_width
        at_work = 8 * text.width + 3 * (text.mlp_width + heads)
        per_frame += tokens * at_work * np.dtype(model.text.dtype).itemsize + 8 * text.width
    return int(REST + frames * per_frame)


def _tower(model: Any) -> Any:
    return model.speech if isinstance(model, TwoTowers) else model.encoder
