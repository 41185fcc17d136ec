"""A shard of a speech cache: layer states of some clips, in a folder of its own.

An hour of audio (180,000 frames) takes 3.3 GB of bfloat16 with HuBERT-base, 8.8 GB with large;
twice that in float32, half in int8. So a shard is not verified as a whole: each clip has a digest,
which is compared when the clip is first read, and the shard's description has that of all digests.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder
from mrl_jax.data.cache.files import (
    CACHE_FILE,
    CachedArray,
    read_cache_of,
    verify_cache,
    write_cache_file,
)

CacheDtype = Literal["float32", "bfloat16", "int8"]
CACHE_DTYPES: tuple[str, ...] = get_args(CacheDtype)
CACHE_DTYPE_KEY = "speech_cache_dtype"
STATES_FILE, SCALES_FILE, DIGESTS_FILE = "states.npy", "scales.npy", "digests.npy"
MAKE_AGAIN = "name another folder in data.speech_cache, or remove that one to have it made again"
DISK_DTYPES = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
"""On disk. numpy's files know no bfloat16: its bits are written as whole numbers."""


class SpeechShard:
    """States of N clips, left on the disk until they are read.

    May be read by several threads and processes. All frames of all clips follow one another.

    Args:
        states: [all frames, Y, D], in the dtype on disk.
        scales: [N, Y, D] float32 of int8; else None.
        frames: [N], of each clip.
        digests: [N, 32] uint8, SHA-256 of each clip's states and scales; None not to verify.
    """

    def __init__(
        self,
        states: CachedArray,
        scales: CachedArray | None,
        frames: HostArray,
        digests: HostArray | None = None,
    ):
        self.states, self._scales = states, scales
        self._digests, self._verified = digests, bytearray(len(frames))
        self._starts = starts_of(frames)

    def clip(self, row: int, *, number: int) -> tuple[HostArray, HostArray | None]:
        """States [T, Y, D] of a clip in the dtype on disk, and scales [Y, D] of int8.

        Args:
            row: of the clip in this shard.
            number: of the clip in the data set, for the error.

        Raises:
            MrlError: they are not the ones that were written.
        """
        start, stop = self._starts[row : row + 2]
        states = self.states[start:stop]
        scales = None if self._scales is None else self._scales[row]
        if self._digests is not None and not self._verified[row]:
            if clip_digest(states, scales) != self._digests[row].tobytes():
                problem = f"the states of clip {number} are not those that were written"
                raise MrlError(problem, where=self.states.path, hint=MAKE_AGAIN)
            self._verified[row] = 1
        return states, scales


def clip_digest(states: HostArray, scales: HostArray | None) -> bytes:
    """SHA-256 of a clip's states [T, Y, D] as they are on the disk, and of its scales [Y, D]."""
    total = hashlib.sha256()
    for array in (states,) if scales is None else (states, scales):
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.digest()


def starts_of(frames: HostArray) -> HostArray:
    """[N + 1], where each clip's frames begin, and where the last one's end."""
    return np.concatenate(([0], np.cumsum(frames)))


def cache_bytes(frames: HostArray, layers: int, width: int, cache_dtype: str) -> int:
    """Bytes of clips on the disk."""
    scales = len(frames) * layers * width * 4 if cache_dtype == "int8" else 0
    return int(frames.sum()) * layers * width * np.dtype(DISK_DTYPES[cache_dtype]).itemsize + scales


def write_speech_shard(
    folder: Path,
    key: Mapping[str, str],
    frames: HostArray,
    layers: int,
    width: int,
    clips: Iterable[tuple[int, HostArray, HostArray | None]],
) -> None:
    """Write a shard, whole or not at all.

    Args:
        folder, key: of the shard, empty or not there; and what it is made of.
        frames, layers, width: [N] of each clip; Y; D.
        clips: row of every clip, in any order, its states [its frames or more, Y, D] in the
            cache's dtype, and its scales [Y, D] of int8.

    Raises:
        MrlError: something else is there; the place cannot be written to, or has no room.
    """
    needed = cache_bytes(frames, layers, width, key[CACHE_DTYPE_KEY])
    with staged_folder(folder, marker=CACHE_FILE, needs_bytes=needed) as staging:
        arrays = []
        for name, (shape, dtype) in _arrays(key, frames, layers, width).items():
            path = staging / name
            arrays.append(np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape))
            with path.open("r+b") as file:  # A disk that fills up is an error now, and no signal.
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        starts = starts_of(frames)
        digests = np.zeros((len(frames), 32), np.uint8)
        for clip, states, scales in clips:
            start, stop = starts[clip : clip + 2]
            arrays[0][start:stop] = states[: stop - start].view(arrays[0].dtype)
            if scales is not None:
                arrays[1][clip] = scales
            written = arrays[0][start:stop], None if scales is None else arrays[1][clip]
            digests[clip] = np.frombuffer(clip_digest(*written), np.uint8)
        for array in arrays:
            array.flush()
        np.save(staging / DIGESTS_FILE, digests, allow_pickle=False)
        sizes = {"clips": len(frames), "frames": int(frames.sum())}
        sizes |= {"layers": layers, "width": width}
        write_cache_file(staging, key, [DIGESTS_FILE], sizes)


def _arrays(
    key: Mapping[str, str], frames: HostArray, layers: int, width: int
) -> dict[str, tuple[tuple[int, int, int], Any]]:
    """Shape and dtype of every file."""
    cache_dtype = key[CACHE_DTYPE_KEY]
    arrays = {STATES_FILE: ((int(frames.sum()), layers, width), DISK_DTYPES[cache_dtype])}
    scales = {SCALES_FILE: ((len(frames), layers, width), np.float32)}
    return arrays | scales if cache_dtype == "int8" else arrays


def open_speech_shard(
    folder: Path,
    key: Mapping[str, str],
    frames: HostArray,
    layers: int,
    width: int,
    *,
    verify: bool = True,
) -> SpeechShard | None:
    """A shard that was written before; None where there is none. Arguments as to write one.

    Args:
        verify: compare each clip with its digest when it is first read.

    Raises:
        MrlError: it was made of something other than `key`, or is damaged.
    """
    info = read_cache_of(folder, key, hint=MAKE_AGAIN)
    if info is None:
        return None
    digests = None
    if verify:
        verify_cache(folder, info, hint=MAKE_AGAIN)
        if info.files:
            path, shape = folder / DIGESTS_FILE, (len(frames), 32)
            digests = CachedArray(path, np.uint8, shape, hint=MAKE_AGAIN)[:]
    states, *scales = (
        CachedArray(folder / name, dtype, shape, hint=MAKE_AGAIN)
        for name, (shape, dtype) in _arrays(key, frames, layers, width).items()
    )
    scale = scales[0] if scales else None
    return SpeechShard(states, scale, frames, digests)
