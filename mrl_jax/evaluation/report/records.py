"""Results as records: JSON Lines, one flat object a measured value."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from mrl_jax.core.arguments import mismatch
from mrl_jax.core.errors import ArgumentError, MrlError, readable
from mrl_jax.core.files import write_text
from mrl_jax.core.json_text import parse_json
from mrl_jax.metrics.intervals import Interval, PairedTest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One measured value.

    Attributes:
        metric: what was measured, as "ndcg@10".
        value: its value; NaN where it has none.
        dim: width of the prefix it was measured at.
        n: items it is a mean over.
        low, high: ends of its 95 % interval.
        setting: what else was chosen for it, as {"snr_db": 10}.
    """

    metric: str
    value: float
    dim: int | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    setting: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, metric: str, measured: Interval | PairedTest, **fields: Any) -> "Record":
        """The record of a mean, or of a difference, with its interval."""
        value = measured.mean if isinstance(measured, Interval) else measured.difference
        return cls(metric=metric, value=value, low=measured.low, high=measured.high, **fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What was measured on what, by which code.

    Attributes:
        data, model: as the user named them, bytes that are not UTF-8 as escapes.
        data_digest, model_digest: of their contents.
        commit: of this library, "" where it is not known.
    """

    data: str
    data_digest: str
    model: str
    model_digest: str
    commit: str

    def __post_init__(self) -> None:
        for name in ("data", "model"):
            object.__setattr__(self, name, readable(getattr(self, name)))


ORDER = ("metric", "dim", "value", "n", "low", "high")
FIELDS = set(ORDER)
SOURCE_FIELDS = {field.name for field in dataclasses.fields(Source)}


def write_records(path: Path, records: Sequence[Record], source: Source) -> None:
    """One object a record: its fields, its setting's entries beside them, and the source."""
    rows = []
    for record in records:
        row = {name: getattr(record, name) for name in ORDER}
        if clash := (FIELDS | SOURCE_FIELDS) & set(record.setting):
            raise ArgumentError(f"a setting may not be called {sorted(clash)}")
        rows.append({**row, **record.setting, **dataclasses.asdict(source)})
    write_jsonl(path, rows)


def read_records(path: Path) -> list[Record]:
    """The records of a file; entries that are no field are their settings."""
    return [
        Record(
            **{name: row[name] for name in FIELDS - {"value", "low", "high"}},
            low=None if row["low"] is None else float(row["low"]),
            high=None if row["high"] is None else float(row["high"]),
            value=math.nan if row["value"] is None else float(row["value"]),
            setting={k: v for k, v in row.items() if k not in FIELDS | SOURCE_FIELDS},
        )
        for row in _rows(path)
    ]


def read_source(path: Path) -> Source:
    """What the records of a file were measured on."""
    rows = _rows(path)
    if not rows:
        raise MrlError("has no record", where=path, hint="evaluate again")
    return Source(**{name: rows[0][name] for name in SOURCE_FIELDS})


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line. JSON has no NaN, so it is written as null."""
    lines = [
        json.dumps(
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()},
            ensure_ascii=False,
            allow_nan=False,
        )
        for r in rows
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, of which every field is of its type.

    Raises:
        MrlError: another file, or a damaged one.
    """
    hints = {**get_type_hints(Record), **get_type_hints(Source), "value": float | None}
    try:
        rows = [parse_json(line) for line in path.read_bytes().splitlines()]
    except ValueError as error:
        raise MrlError("is no JSON Lines of records", where=path, hint="evaluate again") from error
    for number, row in enumerate(rows, 1):
        where = f"{path}, line {number}"
        if not isinstance(row, dict) or not set(row) >= (FIELDS | SOURCE_FIELDS):
            problem = "holds objects that are no records"
            raise MrlError(problem, where=where, hint="evaluate again")
        for name, value in row.items():
            if problem := mismatch(value, hints.get(name, str | int | float | None)):
                raise MrlError(f"`{name}` is {problem}", where=where, hint="evaluate again")
    return rows
