"""A question spoken into the microphone, by the package sounddevice (PortAudio)."""

import math
import sys
from typing import Any

import numpy as np
from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.extras import require

LONGEST = 600.0
"""Seconds of a recording."""
WHERE = "--microphone"


def check_microphone(seconds: float) -> None:
    """Refuse, before a model is loaded, what cannot be recorded.

    Raises:
        MrlError: sounddevice, PortAudio or a microphone is missing; no length of a recording.
    """
    if not (math.isfinite(seconds) and 0 < seconds <= LONGEST):
        raise MrlError(f"{seconds:g}, expected more than 0, up to {LONGEST:g}", where="--seconds")
    device = _sounddevice()
    try:
        device.query_devices(kind="input")
    except (device.PortAudioError, ValueError) as error:
        raise _no_microphone(error) from error


def record(seconds: float, sample_rate: int) -> Float32[HostArray, " S"]:
    """So many seconds of the default microphone: mono, `sample_rate` samples a second.

    Raises:
        MrlError: there is none, or it does not record.
    """
    device = _sounddevice()
    print(f"recording for {seconds:g} seconds", file=sys.stderr)
    try:
        frames = round(seconds * sample_rate)
        samples = device.rec(frames, samplerate=sample_rate, channels=1, dtype="float32")
        device.wait()
    except (device.PortAudioError, ValueError) as error:
        raise _no_microphone(error) from error
    return np.asarray(samples, np.float32).reshape(-1)


def _sounddevice() -> Any:
    require("sounddevice", by="a microphone", where=WHERE)
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except OSError as error:  # It is there, and the library below it is not.
        problem = f"PortAudio cannot be loaded ({first_line(error)})"
        raise MrlError(problem, where=WHERE, hint="install libportaudio2") from error
    return sounddevice


def _no_microphone(error: Exception) -> MrlError:
    problem = f"no microphone can be read ({first_line(error)})"
    return MrlError(problem, where=WHERE, hint="connect one, or pass a recording with --audio")
