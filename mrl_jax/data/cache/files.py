"""What all caches of frozen outputs share: a file that says what they were made of, and arrays.

A cache belongs to what it was made of (texts or clips, weights, dtypes), each by its digest or
value, and a run that differs in one is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.files import write_json
from mrl_jax.core.records import read_object, readable_as

CACHE_FILE = "cache.json"
FORMAT = 1


def is_cache_of(folder: Path, key: Mapping[str, str], *, hint: str) -> bool:
    """Whether a cache is there that was made of `key`.

    Raises:
        MrlError: it was made of something else, or is damaged; with the `hint`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    with readable_as("a cache", folder, hint=hint):
        made_of = dict(read_object(folder / CACHE_FILE, version=FORMAT)["made_of"])
    for part, value in key.items():
        if made_of.get(part) != value:
            values = f"{str(made_of.get(part))[:12]}, and this run has {value[:12]}"
            raise MrlError(f"was made with another {part} ({values})", where=folder, hint=hint)
    return True


def write_cache_file(folder: Path, key: Mapping[str, str], more: Mapping[str, Any]) -> None:
    """Write down what a cache was made of, and `more` for whoever looks at it."""
    write_json(folder / CACHE_FILE, {"format": FORMAT, "made_of": dict(key), **more})


class CachedArray:
    """An array of a cache, left on the disk until rows of it are read.

    May be read by several threads; a copy in another process opens the file by itself.

    Args:
        path: an .npy file.
        dtype: that it must have.
        shape: that it must have; None stands for any size.
        hint: what a user does about one that cannot be read.

    Raises:
        MrlError: it is damaged, or of another dtype or shape.
    """

    def __init__(self, path: Path, dtype: DTypeLike, shape: tuple[int | None, ...], *, hint: str):
        self.path, self._hint = path, hint
        self._array = _opened(path, hint)
        self.shape, self.dtype = self._array.shape, self._array.dtype
        sizes = zip(shape, self.shape, strict=False)
        fits = len(self.shape) == len(shape) and all(want in (None, size) for want, size in sizes)
        if self.dtype != dtype or not fits:
            expected = ", ".join("any" if size is None else str(size) for size in shape)
            expected = f"expected {np.dtype(dtype)} of ({expected})"
            problem = f"holds {self.dtype} of shape {self.shape}, {expected}"
            raise MrlError(problem, where=path, hint=hint)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: Any) -> HostArray:
        return np.asarray(self._array[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._array = _opened(self.path, self._hint)


def _opened(path: Path, hint: str) -> HostArray:
    try:
        # Not np.load, which also reads archives and, where asked to, pickles.
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, TypeError, SyntaxError) as error:
        problem = f"cannot be read ({first_line(error)})"
        raise MrlError(problem, where=path, hint=hint) from error
