"""Recordings, on disk or in memory, to mono float32 samples."""

import contextlib
import io
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.core.extras import require
from mrl_jax.core.paths import user_path

DECODABLE = ("wav", "flac", "mp3", "ogg", "opus")
_BLOCK = 1 << 20
_UNKNOWN = 1 << 60
"""Frames that no file has: what libsndfile returns where a stream does not have its length."""


def load_clip(path: str | Path, sample_rate: int, *, max_seconds: float | None = None) -> HostArray:
    """Decode a recording, mix it down to mono and resample it (soxr, high quality).

    Args:
        path: a file that libsndfile reads: wav, flac, mp3, ogg or opus.
        sample_rate: samples a second of the result.
        max_seconds: decode no more than this.

    Returns:
        [S] float32.

    Raises:
        MrlError: no such file, empty, not audio, truncated; librosa is not installed.
    """
    path = existing_file(user_path(path), hint="check the path of the recording")
    return decode_clip(path, sample_rate, name=path, max_seconds=max_seconds)


def decode_clip(
    source: Path | bytes, sample_rate: int, *, name: object, max_seconds: float | None = None
) -> HostArray:
    """`load_clip` for a file or for the bytes of one; `name` is what errors call it."""
    with _opened(source, name) as file:
        rate = file.samplerate
        limit = _UNKNOWN if max_seconds is None else math.ceil(max_seconds * rate)
        if file.frames >= _UNKNOWN:
            file.seekable = lambda: False  # Else soundfile seeks after reading, and fails.
        blocks = [np.zeros((0, file.channels), np.float32)]
        # By blocks, as a header may promise more than memory holds.
        while limit > 0 and len(block := file.read(min(limit, _BLOCK), "float32", always_2d=True)):
            blocks.append(block)
            limit -= len(block)
        samples = np.concatenate(blocks)
        if limit > 0:
            _check_whole(source, file.format, file.frames - len(samples), name)
    return resample(samples.mean(axis=1), rate, sample_rate, name=name)


def load_audio_of(owner: str, audio: Path | bytes | None, sample_rate: int) -> HostArray:
    """The recording, [S] float32, that a row of a set carries: a file, or its bytes.

    Args:
        owner: what errors call the row: "query 'q1'".

    Raises:
        MrlError: there is none, as the row is written; it cannot be decoded.
    """
    if audio is None:
        hint = "embed it as text, or give its recording in the column `audio`"
        raise MrlError("has no audio, only text", where=owner, hint=hint)
    if isinstance(audio, Path):
        return load_clip(audio, sample_rate)
    return decode_clip(audio, sample_rate, name=f"audio of {owner}")


def clip_seconds(source: Path | bytes, *, name: object) -> float:
    """Length of a recording by its header, without decoding it; infinity where it has none.

    Raises:
        MrlError: as `load_clip`, so far as the start of the recording shows.
    """
    with _opened(source, name) as file:
        return file.frames / file.samplerate if file.frames < _UNKNOWN else math.inf


def _libraries(name: object) -> tuple[Any, Any]:
    require("librosa", "soundfile", by="reading audio", where=name)
    import librosa
    import soundfile

    return librosa, soundfile


@contextlib.contextmanager
def _opened(source: Path | bytes, name: object) -> Iterator[Any]:
    """A `soundfile.SoundFile`; libsndfile's errors become `MrlError`s."""
    _, soundfile = _libraries(name)
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as f:
            yield f
    except (soundfile.SoundFileError, OSError, TypeError, MemoryError) as error:
        # TypeError: headless .raw
        words = getattr(error, "error_string", str(error)).strip().rstrip(".")
        words = words.removeprefix("Error : ")
        problem = _known_problem(source) or (words.splitlines() or [type(error).__name__])[-1][:120]
        raise _undecodable(problem, name) from error


def _undecodable(problem: str, name: object) -> MrlError:
    return MrlError(
        f"cannot be decoded as audio ({problem})",
        where=name,
        hint=f"expected one of {', '.join(DECODABLE)}; convert it, or leave it out",
    )


def _bytes_between(source: Path | bytes, start: int, stop: int) -> bytes:
    if isinstance(source, bytes):
        return source[start:stop]
    with source.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _known_problem(source: Path | bytes) -> str | None:
    """A plainer message than libsndfile's for common files that it cannot read."""
    try:
        head = _bytes_between(source, 0, 12)
    except OSError:
        return None
    if not head:
        return "the file is empty"
    if head[4:8] == b"ftyp":
        return "MPEG-4 audio, m4a, is not supported"
    return None


def _check_whole(source: Path | bytes, kind: str, missing: int, name: object) -> None:
    """Refuse a recording whose end is missing, which libsndfile reads without an error.

    (It raises one for FLAC.) Streams without a length in their header pass.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    truncated = False
    if kind in ("WAV", "WAVEX"):
        truncated = _wav_is_cut(source, size)
    elif kind == "OGG":
        start = max(0, size - 65307)  # The size of the largest page.
        tail = _bytes_between(source, start, size)
        page = tail.rfind(b"OggS")
        truncated = page < 0 or page + 27 > len(tail)
        if not truncated:
            segments = tail[page + 27 : page + 27 + tail[page + 26]]
            end = page + 27 + tail[page + 26] + sum(segments)
            rest = tail[end:]  # Of a page that was cut within its first letters.
            truncated = end > len(tail) or (rest != b"" and b"OggS".startswith(rest))
    elif kind in ("MP3", "MPEG"):
        # Only where a header counts the frames; without one their number was a guess.
        head = _bytes_between(source, 0, 8192)
        truncated = 1152 < missing < _UNKNOWN // 2 and (b"Xing" in head or b"Info" in head)
    if truncated:
        raise _undecodable("the file is truncated: its end is missing", name)


def _wav_is_cut(source: Path | bytes, size: int) -> bool:
    position = 12
    while position + 8 <= size:
        kind, length = struct.unpack("<4sI", _bytes_between(source, position, position + 8))
        if kind == b"data":
            # Programs that stream write a length near 2 or 4 GiB.
            return length < 0x7FFFF000 and position + 8 + length > size
        position += 8 + length + length % 2
    return False


def resample(samples: HostArray, rate: int, sample_rate: int, *, name: object) -> HostArray:
    """Samples in memory at another rate, as `load_clip` does it for files.

    Args:
        samples: [S] float, from -1 to 1, `rate` of them a second.
        sample_rate: samples a second of the result, [S'] float32.
        name: what errors call it.
    """
    if samples.ndim != 1 or samples.dtype.kind != "f":
        given = f"{samples.dtype} of shape {samples.shape}"
        problem = f"the audio is {given}, expected one row of floats"
        hint = "mix the channels down to one, and divide whole numbers by their range"
        raise MrlError(problem, where=name, hint=hint)
    samples = samples.astype(np.float32)
    if rate == sample_rate or not samples.size or not np.isfinite(samples).all():
        return samples  # NaN would spread over its neighbours: the caller names it as it is.
    librosa, _ = _libraries(name)
    return librosa.resample(samples, orig_sr=rate, target_sr=sample_rate, res_type="soxr_hq")
