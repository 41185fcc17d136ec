"""Arrays of a checkpoint, read by memory map into buffers that JAX takes without a copy.

Orbax writes them, each as one uncompressed block. Its own reading copies an array twice and casts
it on one core, which for a tower of 0.6 billion weights takes more time than all else at start-up.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mrl_jax.checkpoints.arrays import UTF8_PATH, check_there
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, as_os_error
from mrl_jax.core.text import check_path_text

ALIGNMENT = 64
"""Bytes; XLA takes a buffer that begins at a multiple of it as it is."""


def read_mapped(
    folder: Path,
    paths: Iterable[str],
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    what: str = "the array",
    hint: str = "",
) -> dict[str, HostArray]:
    """Read arrays by dotted path, in their stored dtypes.

    They are copied once, out of the mapped file: it may change or go away afterwards, and XLA
    could not compute on the file itself, where arrays begin anywhere.

    Args:
        folder: a checkpoint that `save_arrays` made.
        paths: of the arrays that are read.
        shapes: that they must have; any by default.
        what, hint: for the error.

    Raises:
        MrlError: `what` is missing, or cannot be read: an array is not there, or of another shape.
    """
    check_there(folder, what, hint)
    check_path_text(folder, hint=UTF8_PATH)
    try:
        return _read(folder.resolve(), list(paths), shapes or {})
    except Exception as error:  # TensorStore raises whatever its storage raised.
        failure = as_os_error(error)
        problem = f"{what} cannot be read ({failure.strerror or failure})"
        raise MrlError(problem, where=folder, hint=hint) from error


def read_to_device(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: DTypeLike,
    sharding: jax.sharding.Sharding,
    what: str = "the array",
    hint: str = "",
) -> dict[str, jax.Array]:
    """`read_mapped` of arrays of these shapes, placed, and cast to `dtype` by the device.

    Raises:
        MrlError: as `read_mapped`.
    """
    arrays = read_mapped(folder, shapes, shapes=shapes, what=what, hint=hint)
    placed: dict[str, jax.Array] = {}
    for path in list(arrays):  # One at a time, so that few are there in both dtypes.
        array = jax.device_put(arrays.pop(path), sharding)
        placed[path] = array if array.dtype == jnp.dtype(dtype) else array.astype(dtype)
    return placed


def _read(
    folder: Path, paths: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, HostArray]:
    import tensorstore as ts

    context = ts.Context({"file_io_mode": {"mode": "memmap"}})
    base = {"driver": "file", "path": f"{folder}/"}

    def opened(path: str) -> Any:
        place = {"driver": "ocdbt", "base": base, "path": f"{path}/"}
        # Numbers that are missing are no zeros.
        spec = {"driver": "zarr", "kvstore": place, "fill_missing_data_reads": False}
        return ts.open(spec, open=True, read=True, context=context)

    arrays: dict[str, HostArray] = {}
    writes: list[Any] = []
    for path, future in [(path, opened(path)) for path in paths]:
        store = future.result()
        shape = tuple(store.shape)
        if shape != shapes.get(path, shape):
            raise ValueError(f"{path} has the shape {shape}, expected {shapes[path]}")
        arrays[path] = _aligned(shape, store.dtype.numpy_dtype)
        writes.append(ts.array(arrays[path], write=True).write(store))
    for write in writes:
        write.result()
    return arrays


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
    """An empty array that begins at a multiple of `ALIGNMENT`."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
