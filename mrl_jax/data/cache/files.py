"""What all caches of frozen outputs share: a file that says what they were made of, and arrays.

A cache belongs to what it was made of (texts or clips, weights, dtypes), each by its digest or
value, and a run that differs in one is refused. Its file names the digests of the arrays too.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.checksums import file_digest, verify_files
from mrl_jax.core.errors import MrlError
from mrl_jax.core.npy import open_npy
from mrl_jax.core.records import read_record, write_description

CACHE_FILE = "cache.json"
FORMAT = 1
REMOVE = "remove it, and the next run makes it again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """The contents of cache.json.

    Attributes:
        made_of: what the cache belongs to.
        files: SHA-256 of the files that are read whole, by name; none in older caches.
        sizes: what there is, for whoever looks at it.
    """

    made_of: Mapping[str, str]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def read_cache_of(folder: Path, key: Mapping[str, str], *, hint: str) -> CacheInfo | None:
    """The description of a cache that was made of `key`; None where no cache is there.

    Raises:
        MrlError: it was made of something else, or is damaged; with the `hint`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    path = folder / CACHE_FILE

    def parts(raw: dict[str, Any]) -> Mapping[str, Any]:
        # Older ones have their sizes beside the rest.
        known = {field.name for field in dataclasses.fields(CacheInfo)}
        beside = {name: raw.pop(name) for name in list(raw) if name not in known}
        return {"sizes": {**beside, **raw.get("sizes", {})}}

    info = read_record(path, CacheInfo, version=FORMAT, what="a cache", hint=hint, parts=parts)
    for part, value in key.items():
        if info.made_of.get(part) != value:
            values = f"{str(info.made_of.get(part))[:12]}, and this run has {value[:12]}"
            raise MrlError(f"was made with another {part} ({values})", where=folder, hint=hint)
    return info


def write_cache_file(
    folder: Path,
    key: Mapping[str, str],
    files: Sequence[str],
    sizes: Mapping[str, int],
    *,
    apart: bool = False,
) -> None:
    """Write down what a cache was made of, the digests of `files`, and sizes to look at.

    With `apart` other processes may write the same.
    """
    digests = {name: file_digest(folder / name) for name in files}
    info = CacheInfo(made_of=key, files=digests, sizes=sizes)
    fields = dataclasses.asdict(info)
    write_description(folder / CACHE_FILE, fields, version=FORMAT, apart=apart)


def verify_cache(folder: Path, info: CacheInfo, *, hint: str) -> None:
    """Compare the files of a cache that are read whole with their digests.

    Raises:
        MrlError: a file is missing, or is another than the one that was written.
    """
    verify_files(folder, info.files, named_by=CACHE_FILE, hint=hint)


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
        self._array = open_npy(path, hint=hint)
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
        self._array = open_npy(self.path, hint=self._hint)
