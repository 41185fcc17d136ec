"""Flipped bits in files, and what becomes of reading something damaged (see `mutate`)."""

import contextlib
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.errors import MrlError


def damaged(content: bytes, place: int = -1) -> bytes:
    """The same with one bit changed: a fixed byte in its place could be the one that is there."""
    after = bytearray(content)
    after[place] ^= 1
    return bytes(after)


@contextlib.contextmanager
def flipped(path: Path, rng: random.Random) -> Iterator[str]:
    """One random bit of a file is another inside the block; gives its place in words."""
    before = path.read_bytes()
    after, at, bit = bytearray(before), rng.randrange(len(before)), rng.randrange(8)
    after[at] ^= 1 << bit
    path.write_bytes(after)
    try:
        yield f"{path.name} byte {at} of {len(before)} bit {bit}"
    finally:
        path.write_bytes(before)


def files_of(folder: Path) -> list[Path]:
    """Every file that is not empty."""
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]


def equal(one: Any, other: Any) -> bool:
    """Whether nested dicts, lists and arrays hold the same values, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and one.tobytes() == other.tobytes()
    return one == other


def outcome(read: Callable[[], Any], expected: Any = None) -> str:
    """What reading something damaged comes to: told, harmless, SILENT or RAW."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = read()
    except MrlError as error:
        return "told" if len(str(error)) < 2000 and "\n" not in str(error) else "LONG"
    except Exception as error:
        return f"RAW {type(error).__name__}: {error}"
    return "harmless" if expected is None or equal(values, expected) else "SILENT"


class Outcomes:
    """Outcomes counted by kind of folder, and the bad ones in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.bad: list[str] = []

    def add(self, kind: str, found: str, where: str) -> None:
        word = found.split()[0]
        self.counts[f"{kind}: {word}"] += 1
        if word not in ("told", "harmless"):
            self.bad.append(f"{kind}, {where}: {found[:200]}")
