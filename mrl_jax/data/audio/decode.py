"""Recordings, on disk or in memory, to mono float32 samples that can be used.

One function decides what is a broken recording, for the build, the evaluation and `Embedder`.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.arguments import NonNegativeFloat, PositiveFloat, PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.containers import CUT, length_problem, mp3_counts_frames, mp3_start
from mrl_jax.data.audio.other_files import describe_other
from mrl_jax.data.audio.source import Source, open_source
from mrl_jax.data.audio.verdict import Levels, unfit

DECODABLE = ("wav", "flac", "mp3", "ogg", "opus", "aiff", "au", "caf")
RATES = (1_000, 1_000_000)
"""Samples a second of a recording: a header beyond is damaged, and resampling would fill memory."""

MOST_SAMPLES = 1 << 29
"""Samples of a recording that are held, before or after resampling: 2.1 GB, 9 hours at 16 kHz."""

_BLOCK = 1 << 20
"""Samples read at once, of all channels together."""

_SHOWN = 5
"""Broken recordings that an error names."""

_UNKNOWN = 1 << 60
"""Frames that no file has: what libsndfile returns where a stream does not have its length."""


@checked
def load_clip(
    path: str | Path,
    sample_rate: PositiveInt,
    *,
    start_seconds: NonNegativeFloat = 0.0,
    max_seconds: PositiveFloat | None = None,
    allow_silence: bool = False,
) -> HostArray:
    """Decode a recording, mix it down to mono and resample it (soxr, high quality).

    Args:
        path: a file that libsndfile reads: wav, flac, mp3, ogg, opus, aiff, au or caf.
        sample_rate: samples a second of the result.
        start_seconds: leave out what is before.
        max_seconds: decode no more than this.
        allow_silence: take one without any sound, as parts of a recording may be.

    Returns:
        [S] float32, S at most `MOST_SAMPLES`.

    Raises:
        MrlError: no such file, or a pipe or device; not audio, truncated, empty, silent, with
            samples that are not finite or far beyond ±1, with channels that cancel each other,
            or too long; soundfile or librosa is not installed.
    """
    path = user_path(path)
    return decode_clip(
        path,
        sample_rate,
        name=path,
        start_seconds=start_seconds,
        max_seconds=max_seconds,
        allow_silence=allow_silence,
    )


@checked
def decode_clip(
    source: Path | bytes,
    sample_rate: PositiveInt,
    *,
    name: object,
    start_seconds: NonNegativeFloat = 0.0,
    max_seconds: PositiveFloat | None = None,
    allow_silence: bool = False,
) -> HostArray:
    """`load_clip` for a file or for the bytes of one; `name` is what errors call it."""
    _check_rate(sample_rate, "the sample rate asked for", name)
    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise MrlError(f"max_seconds is {max_seconds}, expected a positive number", where=name)
    with _opened(source, name) as (encoded, file):
        rate = file.samplerate
        limit = MOST_SAMPLES if max_seconds is None else math.ceil(max_seconds * rate)
        first = _skip(file, start_seconds, name)
        samples, levels = _read(file, rate, sample_rate, limit, name)
        if levels.frames < limit:
            _check_whole(encoded, file, first + levels.frames, name)
    if problem := levels.problem():
        raise _broken(problem, name)
    if allow_silence and samples.size and not np.any(samples):
        return np.zeros(round(samples.size * sample_rate / rate), np.float32)
    return _checked(_to_rate(samples, rate, sample_rate, name), name)


@checked
def load_audio_of(owner: str, audio: Path | bytes | None, sample_rate: PositiveInt) -> HostArray:
    """The recording, [S] float32, that a row of a set carries: a file, or its bytes.

    Args:
        owner: what errors call the row: "query 'q1'".

    Raises:
        MrlError: there is none, as the row is written; it is broken.
    """
    if audio is None:
        hint = "embed it as text, or give its recording in the column `audio`"
        raise MrlError("has no audio, only text", where=owner, hint=hint)
    if isinstance(audio, Path):
        return load_clip(audio, sample_rate)
    return decode_clip(audio, sample_rate, name=f"audio of {owner}")


def load_each(load: Callable[[Any], HostArray], items: Iterable[Any]) -> list[HostArray]:
    """`load` of every item; all that are broken are counted, and the first few named.

    Raises:
        MrlError: a recording is broken; the error of `load` itself where it is the only one.
    """
    clips: list[HostArray] = []
    broken: list[MrlError] = []
    total = 0
    for item in items:
        total += 1
        try:
            clips.append(load(item))
        except MrlError as error:
            broken.append(error)
    if len(broken) == 1:
        raise broken[0]
    if broken:
        first = "; ".join(f"{error.where}: {error.problem}" for error in broken[:_SHOWN])
        more = "; ..." if len(broken) > _SHOWN else ""
        raise MrlError(
            f"{len(broken)} of {total} recordings are broken: {first}{more}",
            hint="correct them, or leave them out",
        )
    return clips


@checked
def clip_seconds(source: Path | bytes, *, name: object) -> float:
    """Length of a recording by its header, without decoding it; infinity where it has none.

    Raises:
        MrlError: as `load_clip`, so far as the start of the recording shows.
    """
    seconds, _ = clip_header(source, name=name)
    return seconds


@checked
def clip_header(source: Path | bytes, *, name: object) -> tuple[float, int]:
    """`clip_seconds`, and the samples a second of the recording."""
    with _opened(source, name) as (_, file):
        known = file.frames < _UNKNOWN
        return file.frames / file.samplerate if known else math.inf, file.samplerate


@checked
def resample(samples: HostArray, rate: int | float, sample_rate: int, *, name: object) -> HostArray:
    """Samples in memory at another rate, checked as `load_clip` checks those of a file.

    Args:
        samples: [S] float, from -1 to 1, `rate` of them a second.
        sample_rate: samples a second of the result, [S'] float32.
        name: what errors call it.

    Raises:
        MrlError: not one row of floats; a rate out of range; broken, as `load_clip` has it.
    """
    if samples.ndim != 1 or samples.dtype.kind != "f":
        given = f"{samples.dtype} of shape {samples.shape}"
        problem = f"the audio is {given}, expected one row of floats"
        hint = "mix the channels down to one, and divide whole numbers by their range"
        raise MrlError(problem, where=name, hint=hint)
    _check_rate(rate, "its sample rate", name)
    levels = Levels()
    with np.errstate(over="ignore"):  # Of float64 beyond float32, which becomes infinite.
        mixed = levels.mix(samples.astype(np.float32)[:, None])
    _check_room(mixed.size, rate, sample_rate, name)
    if problem := levels.problem():
        raise _broken(problem, name)
    return _checked(_to_rate(mixed, rate, sample_rate, name), name)


def _skip(file: Any, seconds: float, name: object) -> int:
    """Go on to the frame at a time of the recording; its number."""
    first = round(seconds * file.samplerate)
    if first and first >= file.frames:
        problem = f"ends before {seconds:g} s, where the clip begins"
        raise MrlError(problem, where=name, hint="correct the clip's start")
    if first:
        file.seek(first)
    return first


def _read(
    file: Any, rate: int, sample_rate: int, limit: int, name: object
) -> tuple[HostArray, Levels]:
    """The mix of a recording's channels, `limit` frames at most, and what was seen of them."""
    if file.frames < _UNKNOWN:
        _check_room(min(file.frames - file.tell(), limit), rate, sample_rate, name)
    else:
        file.seekable = lambda: False  # Else soundfile seeks after reading, and fails.
    levels, mixed = Levels(), bytearray()
    block = max(1, _BLOCK // max(file.channels, 1))
    # By blocks, as a header may promise more than memory holds.
    while (wanted := min(limit - levels.frames, block)) > 0:
        frames = file.read(wanted, "float32", always_2d=True)
        if not len(frames):
            break
        mixed += levels.mix(frames).tobytes()
        _check_room(levels.frames, rate, sample_rate, name)
    return np.frombuffer(mixed, np.float32), levels


def _check_rate(rate: object, what: str, name: object) -> None:
    low, high = RATES
    number = rate if isinstance(rate, int | float | np.number) else math.nan
    if not low <= number <= high:
        problem = f"{what} is {rate!r}, expected {low:,} to {high:,} samples a second"
        raise MrlError(problem, where=name, hint="correct it, or leave the recording out")


def _check_room(samples: int, rate: int | float, sample_rate: int, name: object) -> None:
    """Refuse what would take more memory than recordings do."""
    largest = samples * max(1.0, sample_rate / rate)
    if largest < MOST_SAMPLES:
        return
    hours = MOST_SAMPLES / max(rate, sample_rate) / 3600
    raise MrlError(
        f"is too long: {samples / rate / 3600:.1f} hours or more, {hours:.1f} at most",
        where=name,
        hint="cut it into parts",
    )


def _libraries(name: object) -> tuple[Any, Any]:
    require("librosa", "soundfile", by="reading audio", where=name)
    import librosa
    import soundfile

    return librosa, soundfile


@contextlib.contextmanager
def _opened(source: Path | bytes, name: object) -> Iterator[tuple[Source, Any]]:
    """The encoded recording and a `soundfile.SoundFile`; their errors become `MrlError`s."""
    _, soundfile = _libraries(name)
    with open_source(source, name) as encoded:
        try:
            with _sound_file(soundfile, encoded) as file:
                _check_rate(file.samplerate, "the sample rate in its header", name)
                yield encoded, file
        except MrlError:
            raise
        except Exception as error:  # Of a damaged file libsndfile and soundfile raise many kinds.
            words = getattr(error, "error_string", str(error)).strip().rstrip(".")
            words = words.removeprefix("Error : ")
            lines = words.splitlines() or [type(error).__name__]
            known = describe_other(encoded) or length_problem(encoded)
            raise _undecodable(known or lines[-1][:120], name) from error


def _sound_file(soundfile: Any, encoded: Source) -> Any:
    """The opened recording, an MP3 behind other bytes among them."""
    if not encoded.size:  # Nor are files of /proc read, which say so and may have no end.
        raise EOFError
    try:
        return soundfile.SoundFile(encoded.for_library(), closefd=False)
    except soundfile.SoundFileError:
        start = None if describe_other(encoded) else mp3_start(encoded)
        if not start or encoded.size > MOST_SAMPLES:
            raise
        return soundfile.SoundFile(encoded.for_library(start))


def _check_whole(encoded: Source, file: Any, frames: int, name: object) -> None:
    """Refuse a recording that holds less than its header promises.

    Streams without a length in their header pass.
    """
    problem = length_problem(encoded)
    missing = file.frames - frames
    if problem is None and file.format in ("MP3", "MPEG"):
        problem = CUT if 1152 < missing < _UNKNOWN // 2 and mp3_counts_frames(encoded) else None
    if problem is None and file.format == "FLAC" and 0 < missing < _UNKNOWN // 2:
        problem = CUT
    if problem:
        raise _undecodable(problem, name)


def _to_rate(samples: HostArray, rate: int | float, sample_rate: int, name: object) -> HostArray:
    if rate == sample_rate or not samples.size:
        return samples
    librosa, _ = _libraries(name)
    return librosa.resample(samples, orig_sr=rate, target_sr=sample_rate, res_type="soxr_hq")


def _checked(clip: HostArray, name: object) -> HostArray:
    if problem := unfit(clip):
        raise _broken(problem, name)
    return clip


def _broken(problem: str, name: object) -> MrlError:
    return MrlError(problem, where=name, hint="correct the recording, or leave it out")


def _undecodable(problem: str, name: object) -> MrlError:
    return MrlError(
        f"cannot be decoded as audio ({problem})",
        where=name,
        hint=f"expected one of {', '.join(DECODABLE)}; convert it, or leave it out",
    )
