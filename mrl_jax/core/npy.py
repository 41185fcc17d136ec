"""numpy's .npy files, read without trusting them: plain numbers only, of the length they say.

Format: numpy's NEP 1. numpy's own reader takes pickles where asked to, maps files that are too
short for what their header says, and raises a dozen kinds of errors at damaged headers.
"""

import ast
import math
from pathlib import Path
from typing import Literal

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, describe_os_error, first_line

_MAGIC = b"\x93NUMPY"
_LONGEST = 10_000
"""Bytes of a header; those of plain arrays have 118."""


def open_npy(path: Path, *, hint: str, in_memory: bool = False) -> HostArray:
    """The array in a file, left on the disk (read only) unless it is to be `in_memory`.

    Raises:
        MrlError: no .npy file, one of other things than plain numbers, or of another length than
            its header says; with the `hint`.
    """
    try:
        with path.open("rb") as file:
            dtype, shape, order, start = _header(file.read(_LONGEST + 12))
            size = file.seek(0, 2)
        expected = start + math.prod(shape) * dtype.itemsize
        if size != expected:
            raise ValueError(f"{size:,} bytes, expected {expected:,}")
        if size == start:  # An empty file cannot be mapped.
            return np.empty(shape, dtype)
        array = np.memmap(path, dtype, mode="r", offset=start, shape=shape, order=order)
        return np.array(array) if in_memory else array
    except OSError as error:
        problem = f"cannot be read ({describe_os_error(error)})"
        raise MrlError(problem, where=path, hint=hint) from error
    except Exception as error:  # Whatever Python's parser and numpy make of a damaged header.
        problem = f"cannot be read as an array ({first_line(error)})"
        raise MrlError(problem, where=path, hint=hint) from error


def _header(
    start: bytes,
) -> tuple[np.dtype[np.generic], tuple[int, ...], Literal["C", "F"], int]:
    """Dtype, shape, order of the axes, and the number of the first byte behind the header.

    Raises:
        Exception: it is damaged.
    """
    if not start.startswith(_MAGIC):
        raise ValueError("no .npy file")
    width = {1: 2, 2: 4, 3: 4}.get(start[6])
    if width is None or start[7]:
        raise ValueError(f"version {start[6]}.{start[7]} of the format")
    length = int.from_bytes(start[8 : 8 + width], "little")
    end = 8 + width + length
    if length > _LONGEST or end > len(start):
        raise ValueError(f"a header of {length} bytes")
    fields = ast.literal_eval(start[8 + width : end].decode("latin-1").strip())
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError("a header of other fields")
    descr, shape, columns_first = fields["descr"], fields["shape"], fields["fortran_order"]
    if not isinstance(descr, str) or not isinstance(columns_first, bool):
        raise ValueError("no plain array")
    dtype = np.dtype(descr)
    if dtype.kind not in "iufb":
        raise ValueError(f"values of {descr!r}, expected numbers")
    plain = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
    if not plain or len(shape) > 8:
        raise ValueError("a shape that is none")
    return dtype, shape, "F" if columns_first else "C", end
