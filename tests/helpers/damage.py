"""Files and descriptions damaged by a seeded generator, and what their readers make of them."""

import contextlib
import copy
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.errors import MrlError


def inputs(count: int) -> int:
    """How many inputs a test takes: `count`, times the variable MRL_FUZZ_INPUTS."""
    return max(1, round(count * float(os.environ.get("MRL_FUZZ_INPUTS", "1"))))


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


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 1 << 31, 1 << 63, 10**30, 10**400, 0.0, 0.5, -1.5, 1e308),
    *(float("nan"), float("inf"), "", "x", "zzz", "..", "../../x", "/", "float99", "é", "\0"),
    *("\ud800", "x" * 5000, [], {}, [1], ["a"], [[]], {"a": 1}, [None], [-1], [1e9], {"": ""}),
    *(list(range(300)), "1", "true", [0.5], 10**9, -(10**9)),
)


def mutated(value: Any, rng: random.Random) -> Any:
    """JSON with one to three entries of another type, size or depth, missing, or too many."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder = rng.choice(_holders(value))
        if not holder:
            continue
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}x"] = holder[key]
        elif kind == 2:
            deep: Any = holder[key]
            for _ in range(rng.choice((1, 3, 50))):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            holder[key] = deep
        elif kind == 3 and isinstance(holder[key], int | float) and holder[key]:
            holder[key] = rng.choice((-holder[key], holder[key] + 1, holder[key] * 1000, 1e9))
        elif kind == 4 and isinstance(holder[key], str):
            holder[key] = rng.choice((holder[key] * 2, holder[key][:-1], holder[key].upper()))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def _holders(value: Any) -> list[Any]:
    """The value and all objects and lists in it."""
    inside = value.values() if isinstance(value, dict) else value
    return [value] + [h for item in inside if isinstance(item, dict | list) for h in _holders(item)]
