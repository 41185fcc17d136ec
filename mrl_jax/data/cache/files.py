"""What a store of frozen outputs was made of, beside its arrays; another run's is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, first_line


def is_store_of(folder: Path, name: str, key: Mapping[str, str], *, format: int, hint: str) -> bool:
    """Whether a store made of this is there; one made of something else is an error.

    Args:
        folder: of the store.
        name: of its file.
        key: what the store must have been made of.
        format: that it must have.
        mend: what a user does about a store that cannot be read.

    Raises:
        MrlError: it was made of something else, or is damaged.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        told = json.loads((folder / name).read_text(encoding="utf-8"))
        if told["format"] != format:
            raise ValueError(f"its format is {told['format']!r}")
        made_of = dict(told["made_of"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"cannot be read as a store ({first_line(error)})"
        raise MrlError(problem, where=folder, hint=hint) from error
    for part, value in key.items():
        if made_of.get(part) != value:
            raise MrlError(
                f"was made with another {part} ({str(made_of.get(part))[:12]}, and this run has "
                f"{value[:12]})",
                where=folder,
                hint=hint,
            )
    return True


def write_store_file(
    path: Path, key: Mapping[str, str], *, format: int, more: Mapping[str, Any]
) -> None:
    """Say what a store was made of, and `more` for whoever looks at it."""
    told = {"format": format, "made_of": dict(key), **more}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


class CachedArray:
    """An array of a store, left on the disk until rows of it are read.

    May be read by several threads; a copy in another process opens the file by itself.

    Args:
        path: an .npy file.
        mend: what a user does about one that cannot be read.

    Raises:
        MrlError: it is damaged.
    """

    def __init__(self, path: Path, *, hint: str):
        self.path, self._mend = path, hint
        self._array = _opened(path, hint)
        self.shape, self.dtype = self._array.shape, self._array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: Any) -> HostArray:
        return np.asarray(self._array[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._array = _opened(self.path, self._mend)


def _opened(path: Path, hint: str) -> HostArray:
    try:
        # Not np.load, which also reads archives and, where told to, pickles.
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, TypeError, SyntaxError) as error:
        problem = f"cannot be read ({first_line(error)})"
        raise MrlError(problem, where=path, hint=hint) from error
