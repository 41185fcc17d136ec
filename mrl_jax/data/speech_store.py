"""What a frozen speech tower says of every clip, computed once and read back by every run after it.

A store holds all layers of every frame, so that a head is trained without the tower. That is
large: an hour of audio (180,000 frames) takes 3.3 GB of bfloat16 with HuBERT-base, 8.8 GB with
large; twice that in float32, half in int8. It belongs to the clips, weights and dtype it was made
of, and a run that differs in one is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import ml_dtypes
import numpy as np

from mrl_jax.array_types import HostArray
from mrl_jax.batch import StoredSpeech
from mrl_jax.data.store_file import open_array, read_store_file, write_store_file
from mrl_jax.errors import MrlError

Kept = Literal["float32", "bfloat16", "int8"]
KEPT: tuple[str, ...] = get_args(Kept)
STORE_FILE, STATES_FILE, SCALES_FILE = "store.json", "states.npy", "scales.npy"
FORMAT = 1
MAKE_AGAIN = "name another folder in data.speech_store, or remove this one to have it made again"
STORED_AS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
"""numpy's files know no bfloat16: its bits are written as whole numbers."""


def speech_store_key(
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
    return {"data": clips, "split": split, "speech tower": tower, "dtype": dtype, "kept": kept}


class SpeechStore:
    """States of N clips, left on the disk until they are read; the writer's view as well.

    Reading is safe from several threads and processes. All frames of all clips follow one
    another, in the order of the data set.

    Args:
        states: [all frames, Y, D], as it is stored.
        scales: [N, Y, D] float32 of int8; else None.
        frames: [N], of each clip.
        kept: dtype of the states.
    """

    def __init__(self, states: HostArray, scales: HostArray | None, frames: HostArray, kept: str):
        self._states, self._scales = states, scales
        self.frames, self._kept = frames, kept
        self._starts = np.concatenate(([0], np.cumsum(frames)))

    def rows(self, clips: HostArray, size: int) -> StoredSpeech:
        """The states of some clips, padded to `size` frames."""
        wide = np.zeros((len(clips), size, *self._states.shape[1:]), self._states.dtype)
        for row, clip in enumerate(clips.tolist()):
            wide[row, : self.frames[clip]] = self._states[self._place(clip)]
        return StoredSpeech(
            states=wide.view(ml_dtypes.bfloat16) if self._kept == "bfloat16" else wide,
            scales=None if self._scales is None else np.asarray(self._scales[clips]),
            frames=self.frames[clips].astype(np.int32),
        )

    def put(self, clip: int, states: HostArray, scales: HostArray | None) -> None:
        """Write one clip's states [frames or more, Y, D], and its scales [Y, D] of int8."""
        place = self._place(clip)
        stored = states[: place.stop - place.start]
        self._states[place] = stored.view(self._states.dtype)
        if self._scales is not None:
            self._scales[clip] = scales

    def _place(self, clip: int) -> slice:
        return slice(int(self._starts[clip]), int(self._starts[clip + 1]))


def store_bytes(frames: HostArray, layers: int, width: int, kept: str) -> int:
    """What a store takes on the disk."""
    scales = len(frames) * layers * width * 4 if kept == "int8" else 0
    return int(frames.sum()) * layers * width * np.dtype(STORED_AS[kept]).itemsize + scales


def create_speech_store(
    folder: Path, key: Mapping[str, str], frames: HostArray, layers: int, width: int
) -> SpeechStore:
    """An empty store in `folder`, which is there; its clips are then `put`."""
    kept = key["kept"]
    shapes = {STATES_FILE: (int(frames.sum()), layers, width)}
    if kept == "int8":
        shapes[SCALES_FILE] = (len(frames), layers, width)
    arrays = [
        np.lib.format.open_memmap(
            folder / name,
            mode="w+",
            dtype=STORED_AS[kept] if name == STATES_FILE else np.float32,
            shape=shape,
        )
        for name, shape in shapes.items()
    ]
    more = {"clips": len(frames), "frames": int(frames.sum()), "layers": layers, "width": width}
    write_store_file(folder / STORE_FILE, key, format=FORMAT, more=more)
    return SpeechStore(arrays[0], arrays[1] if len(arrays) > 1 else None, frames, kept)


def open_speech_store(
    folder: Path, key: Mapping[str, str], frames: HostArray, layers: int, width: int
) -> SpeechStore | None:
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
    if read_store_file(folder, STORE_FILE, key, format=FORMAT, mend=MAKE_AGAIN) is None:
        return None
    kept = key["kept"]
    expected = {STATES_FILE: ((int(frames.sum()), layers, width), STORED_AS[kept])}
    if kept == "int8":
        expected[SCALES_FILE] = ((len(frames), layers, width), np.float32)
    arrays: list[HostArray] = []
    for name, (shape, dtype) in expected.items():
        array = open_array(folder / name, mend=MAKE_AGAIN)
        if array.shape != shape or array.dtype != dtype:
            raise MrlError(
                f"holds {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of "
                f"{shape}",
                where=folder / name,
                mend=MAKE_AGAIN,
            )
        arrays.append(array)
    return SpeechStore(arrays[0], arrays[1] if len(arrays) > 1 else None, frames, kept)
