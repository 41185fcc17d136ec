"""What a frozen speech tower says of every clip, computed once and read back by every run after it.

A store holds all layers of every frame, so that a head is trained without the tower. That is
large: an hour of audio (180,000 frames) takes 3.3 GB of bfloat16 with HuBERT-base, 8.8 GB with
large; twice that in float32, half in int8. It belongs to the clips, weights and dtype it was made
of, and a run that differs in one is refused.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.batch import StoredSpeech
from mrl_jax.core.errors import MrlError
from mrl_jax.data.cache.files import CachedArray, is_store_of, write_store_file

CacheDtype = Literal["float32", "bfloat16", "int8"]


CACHE_DTYPES: tuple[str, ...] = get_args(CacheDtype)


KEPT_AS = "speech_cache_dtype"


CACHE_FILE, STATES_FILE, SCALES_FILE = "store.json", "states.npy", "scales.npy"


FORMAT = 1


MAKE_AGAIN = "name another folder in data.speech_cache, or remove this one to have it made again"


STORED_AS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
"""numpy's files know no bfloat16: its bits are written as whole numbers."""


def speech_cache_key(
    *, clips: str, split: str, tower: str, dtype: str, kept: str
) -> dict[str, str]:
    """What a store is made of, in words → digest or value.

    Args:
        clips: digest of the built data set.
        split: of it.
        tower: digest of the speech tower's weights.
        dtype: that the tower computes in.
        kept: dtype of the store.
    """
    return {"data": clips, "split": split, "speech tower": tower, "dtype": dtype, KEPT_AS: kept}


class SpeechCache:
    """States of N clips, left on the disk until they are read.

    May be read by several threads and processes. All frames of all clips follow one another, in
    the order of the data set.

    Args:
        states: [all frames, Y, D], as it is stored.
        scales: [N, Y, D] float32 of int8; else None.
        frames: [N], of each clip.
        kept: dtype of the states.
    """

    def __init__(
        self, states: CachedArray, scales: CachedArray | None, frames: HostArray, kept: str
    ):
        self._states, self._scales = states, scales
        self.frames, self._kept = frames, kept
        self._starts = starts_of(frames)

    def rows(self, clips: HostArray, size: int) -> StoredSpeech:
        """The states of some clips, padded to `size` frames."""
        wide = np.zeros((len(clips), size, *self._states.shape[1:]), self._states.dtype)
        for row, clip in enumerate(clips.tolist()):
            start, stop = self._starts[clip : clip + 2]
            wide[row, : stop - start] = self._states[start:stop]
        return StoredSpeech(
            states=wide.view(ml_dtypes.bfloat16) if self._kept == "bfloat16" else wide,
            scales=None if self._scales is None else self._scales[clips],
            frames=self.frames[clips].astype(np.int32),
        )


def starts_of(frames: HostArray) -> HostArray:
    """[N + 1], where each clip's frames begin, and where the last one's end."""
    return np.concatenate(([0], np.cumsum(frames)))


def cache_bytes(frames: HostArray, layers: int, width: int, kept: str) -> int:
    """What a store takes on the disk."""
    scales = len(frames) * layers * width * 4 if kept == "int8" else 0
    return int(frames.sum()) * layers * width * np.dtype(STORED_AS[kept]).itemsize + scales


def write_speech_cache(
    folder: Path,
    key: Mapping[str, str],
    frames: HostArray,
    layers: int,
    width: int,
    clips: Iterable[tuple[int, HostArray, HostArray | None]],
) -> None:
    """Write a store into a folder that is there.

    Args:
        folder: empty.
        key: what it is made of.
        frames: [N], of each clip.
        layers: Y.
        width: D.
        clips: number of every clip, in any order, its states [its frames or more, Y, D] in the
            store's dtype, and its scales [Y, D] of int8.
    """
    expected, arrays = _arrays(key, frames, layers, width), []
    for name, (shape, dtype) in expected.items():
        path = folder / name
        arrays.append(np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape))
        with path.open("r+b") as file:  # A disk that fills up is told now, and not by a signal.
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    starts = starts_of(frames)
    for clip, states, scales in clips:
        start, stop = starts[clip : clip + 2]
        arrays[0][start:stop] = states[: stop - start].view(arrays[0].dtype)
        if scales is not None:
            arrays[1][clip] = scales
    for array in arrays:
        array.flush()
    more = {"clips": len(frames), "frames": int(frames.sum()), "layers": layers, "width": width}
    write_store_file(folder / CACHE_FILE, key, format=FORMAT, more=more)


def _arrays(
    key: Mapping[str, str], frames: HostArray, layers: int, width: int
) -> dict[str, tuple[tuple[int, int, int], Any]]:
    """Shape and dtype of every file."""
    kept = key[KEPT_AS]
    expected = {STATES_FILE: ((int(frames.sum()), layers, width), STORED_AS[kept])}
    if kept == "int8":
        expected[SCALES_FILE] = ((len(frames), layers, width), np.float32)
    return expected


def open_speech_cache(
    folder: Path, key: Mapping[str, str], frames: HostArray, layers: int, width: int
) -> SpeechCache | None:
    """A store that was made before; None where there is none.

    Args:
        folder: of the store.
        key: what it must have been made of.
        frames: [N], what the tower gives of each clip.
        layers: Y.
        width: D.

    Raises:
        MrlError: it was made of something else, or is damaged.
    """
    if not is_store_of(folder, CACHE_FILE, key, format=FORMAT, hint=MAKE_AGAIN):
        return None
    arrays: list[CachedArray] = []
    for name, (shape, dtype) in _arrays(key, frames, layers, width).items():
        array = CachedArray(folder / name, hint=MAKE_AGAIN)
        if array.shape != shape or array.dtype != dtype:
            raise MrlError(
                f"holds {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of "
                f"{shape}",
                where=folder / name,
                hint=MAKE_AGAIN,
            )
        arrays.append(array)
    scales = arrays[1] if len(arrays) > 1 else None
    return SpeechCache(arrays[0], scales, frames, key[KEPT_AS])
