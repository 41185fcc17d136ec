"""`split`: train, dev and test, so that no speaker, document or recording is in two of them."""

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mrl_jax.core.arguments import Fraction, checked
from mrl_jax.core.errors import MrlError
from mrl_jax.curation.config import check_split
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import StageConfig, TableStage

What = Literal["speaker", "document", "recording"]
DEFAULT = {"train": 0.9, "dev": 0.05, "test": 0.05}


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig(StageConfig):
    """How rows are divided. Rows that have a split keep it, and draw others of their group there.

    Attributes:
        parts: rows of each split: fractions, which sum to 1; or whole numbers, of which one is 0
            and takes the rest.
        disjoint: what may not be in two splits. Of a clip without a known speaker the recording
            stands for it.
        tolerance: how far a split may be from what was asked for, as a share of that.
        seed: of the order in which groups are tried; None for that of the run.
    """

    name: str = "split"
    parts: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(DEFAULT))
    disjoint: tuple[What, ...] = ("speaker", "document", "recording")
    tolerance: Fraction = 0.25
    seed: int | None = None

    def __post_init__(self) -> None:
        where, values = f"stages.{self.name}.parts", list(self.parts.values())
        for name in self.parts:
            check_split(name, where)
        if any(not math.isfinite(value) or value < 0 for value in values) or not values:
            raise MrlError(f"is {values}, expected numbers of 0 or more", where=where)
        if not self.is_counts and abs(sum(values) - 1) > 1e-6:
            problem = f"the fractions sum to {sum(values):g}, expected 1"
            raise MrlError(problem, where=where, hint="or give whole numbers, and 0 for the rest")
        if self.is_counts and any(value % 1 for value in values):
            hint = "give whole numbers, or fractions that sum to 1"
            raise MrlError(f"is {values}, counts and fractions", where=where, hint=hint)
        if self.is_counts and values.count(0) != 1:
            problem = f"{values.count(0)} of the counts are 0, expected one, which takes the rest"
            raise MrlError(problem, where=where, hint="set parts.train=0, for example")
        if not self.is_counts and 0 in values:
            raise MrlError("a fraction is 0", where=where, hint="leave that split out")

    @property
    def is_counts(self) -> bool:
        """Whether the parts are numbers of rows."""
        return any(value > 1 for value in self.parts.values())


class Split(TableStage):
    """Gives whole groups of rows to the splits, the smallest split first."""

    gives_split = True

    def __init__(self, config: SplitConfig):
        self.name, self.config = config.name, config

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        groups = group_rows(rows, self.config.disjoint)
        given = {name: self._given(name, own, rows) for name, own in groups.items()}
        sizes = {name: sum(rows[i].split is None for i in own) for name, own in groups.items()}
        placed = {name: split for name, split in given.items() if split is not None}
        free = [name for name in groups if name not in placed and sizes[name]]
        key = f"{self.config.seed}"
        orders = {name: _order(rows[groups[name][0]], self.config.disjoint) for name in free}
        free.sort(key=lambda name: hashlib.sha256(f"{key}\0{orders[name]}".encode()).digest())
        wanted = self._wanted(sum(sizes[name] for name in groups))
        *small, largest = sorted(wanted, key=lambda split: (wanted[split], split))
        for split in small:
            here = sum(sizes[name] for name, other in placed.items() if other == split)
            left = [name for name in free if name not in placed]
            chosen = _fill(left, sizes, wanted[split] - here)
            placed |= dict.fromkeys(chosen, split)
        placed |= {name: largest for name in free if name not in placed}
        if free:  # Else rows that had a split drew all others.
            self._check(placed, sizes, wanted, groups)
        split_of = {i: placed[name] for name, own in groups.items() if name in placed for i in own}
        return [
            row if row.split is not None else dataclasses.replace(row, split=split_of[i])
            for i, row in enumerate(rows)
        ]

    def _given(self, name: str, own: Sequence[int], rows: Sequence[Row]) -> str | None:
        """The split that some rows of a group have already, which the others then get."""
        there = sorted({split for i in own if (split := rows[i].split) is not None})
        if len(there) > 1 and any(rows[i].split is None for i in own):
            problem = f"{name} is in the splits {' and '.join(there)} as they were given"
            hint = f"take that out of stages.{self.name}.disjoint, or correct the splits"
            raise MrlError(problem, where=f"stage {self.name!r}", hint=hint)
        return there[0] if there else None

    def _wanted(self, total: int) -> dict[str, float]:
        parts = self.config.parts
        if not self.config.is_counts:
            return {split: share * total for split, share in parts.items()}
        rest = total - sum(parts.values())
        if rest <= 0:
            problem = f"the counts sum to {sum(parts.values()):,.0f}, and there are {total:,} rows"
            hint = "ask for fewer"
            raise MrlError(problem, where=f"stages.{self.name}.parts", hint=hint)
        return {split: count or rest for split, count in parts.items()}

    def _check(
        self,
        placed: Mapping[str, str],
        sizes: Mapping[str, int],
        wanted: Mapping[str, float],
        groups: Mapping[str, Sequence[int]],
    ) -> None:
        """Refuse splits that are far from what was asked for."""
        there: Counter[str] = Counter()
        for name, split in placed.items():
            there[split] += sizes[name]
        largest = max(sizes, key=lambda name: sizes[name])
        for split, count in wanted.items():
            far = abs(there[split] - count) > max(self.config.tolerance * count, 1)
            if far or not there[split]:
                raise MrlError(
                    f"{split} would have {there[split]:,} rows, expected about {count:,.0f}: the "
                    f"{len(groups):,} groups of rows stay whole, and the largest, {largest}, has "
                    f"{sizes[largest]:,}",
                    where=f"stage {self.name!r}",
                    hint=f"change parts, raise tolerance, or shorten disjoint "
                    f"({', '.join(self.config.disjoint) or 'nothing'})",
                )


def group_rows(rows: Sequence[Row], disjoint: Sequence[What]) -> dict[str, list[int]]:
    """Numbers of the rows that have to stay together, by what holds the first of them together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys: dict[str, int] = {}
    edges = [
        (i, keys.setdefault(key, len(keys)))
        for i, row in enumerate(rows)
        for key in _keys(row, disjoint)
    ]
    size = len(rows) + len(keys)
    first = np.asarray([i for i, _ in edges], np.int64)
    second = np.asarray([len(rows) + k for _, k in edges], np.int64)
    graph = coo_array((np.ones(len(edges), np.int8), (first, second)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(rows)):
        groups[int(labels[i])].append(i)
    return {_name(rows[own[0]], disjoint): own for own in groups.values()}


def _name(row: Row, disjoint: Sequence[What]) -> str:
    return next(iter(_keys(row, disjoint)), f"the row {row.id!r}")


def _order(row: Row, disjoint: Sequence[What]) -> str:
    """`_name`, and the same wherever the recordings lie."""
    return _name(row if row.audio is None else dataclasses.replace(row, audio=row.id), disjoint)


def _keys(row: Row, disjoint: Sequence[What]) -> list[str]:
    recording = None if row.audio is None else f"the recording {row.audio!r}"
    speaker = recording if row.speaker is None else f"the speaker {row.speaker!r}"
    document = row.document
    every = {
        "speaker": speaker,
        "document": None if document is None else f"the document {document!r}",
        "recording": recording,
    }
    return [key for what in disjoint if (key := every[what]) is not None]


def _fill(names: Sequence[str], sizes: Mapping[str, int], room: float) -> list[str]:
    """Groups, in their order, that fill the room as nearly as they come."""
    chosen: list[str] = []
    for name in names:
        if sizes[name] <= room + 1e-9:
            chosen.append(name)
            room -= sizes[name]
    rest = [name for name in names if name not in set(chosen)]
    if rest and room > 0:
        least = min(rest, key=lambda name: sizes[name])
        if abs(sizes[least] - room) < room:
            chosen.append(least)
    return chosen
