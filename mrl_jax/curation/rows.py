"""One row of the data that is curated, what was measured of it, and its table on disk."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import write_text
from mrl_jax.data.sets.tables import check_new_id, read_jsonl

DIGITS = 6
"""Decimals of every number in a table, so that a row is the same in memory and on disk."""
Measure = float | int | str
"""What a stage measures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A clip of a recording, a text, or a pair of the two.

    Attributes:
        id: unique in its table.
        audio: path of the recording; None for a text alone.
        start, end: the clip is [start, end) of the recording, in seconds; None is its end.
        text: the document, for example the translation; None for a clip alone.
        transcript, language: of the speech.
        text_language: of the document.
        speaker, document_id, split, task, weight: as in a manifest.
        synthetic: what was made by a machine: "text" or "audio".
        measured: by "stage.name", for example "score.snr_db".
        history: a line for each stage that changed the row.
        dropped: by which stage and why; None for a row that is kept.
    """

    id: str
    audio: str | None = None
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    transcript: str | None = None
    language: str | None = None
    text_language: str | None = None
    speaker: str | None = None
    document_id: str | None = None
    split: str | None = None
    task: str | None = None
    weight: float | None = None
    synthetic: str | None = None
    measured: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
    history: tuple[str, ...] = ()
    dropped: str | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _number(value, name, self.id))
        measured = {key: _number(self.measured[key], key, self.id) for key in sorted(self.measured)}
        object.__setattr__(self, "measured", measured)
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            problem = f"the clip is from {self.start} s to {self.end} s"
            raise MrlError(f"{problem}, expected an end after its start", where=f"row {self.id!r}")
        if self.weight is not None and not 0 < self.weight < math.inf:
            problem = f"the weight is {self.weight}, expected a number above 0"
            raise MrlError(problem, where=f"row {self.id!r}")

    @property
    def source(self) -> str:
        """The name of the source that it came from."""
        return self.id.partition("/")[0]

    @property
    def seconds(self) -> float | None:
        """Length of the clip; None for a text, or where nobody has measured the recording."""
        if self.audio is None:
            return None
        whole = self.measured.get("source.seconds")
        end = whole if self.end is None else self.end
        return None if end is None else max(float(end) - self.start, 0.0)

    @property
    def document(self) -> str | None:
        """The identity of the document, which without a text is the transcript."""
        return self.document_id or self.text or self.transcript or None

    def with_measured(self, stage: str, **values: Measure | np.generic) -> "Row":
        """The row with what a stage measured, each under "stage.name".

        Raises:
            MrlError: a number that is not finite.
        """
        new = {
            f"{stage}.{name}": value.item() if isinstance(value, np.generic) else value
            for name, value in values.items()
        }
        return dataclasses.replace(self, measured={**self.measured, **new})

    def drop(self, stage: str, reason: str) -> "Row":
        """The row, dropped by a stage, with its reason."""
        return dataclasses.replace(self, dropped=f"{stage}: {' '.join(reason.split())}")

    def note(self, stage: str, line: str) -> "Row":
        """The row with one more line of history."""
        history = (*self.history, f"{stage}: {' '.join(line.split())}")
        return dataclasses.replace(self, history=history)


_FIELDS = {field.name: field for field in dataclasses.fields(Row)}
_NUMBERS = ("start", "end", "weight")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a table whole or not at all: JSON Lines, sorted keys, defaults left out."""
    write_text(path, "".join(f"{line_of(row)}\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """The rows that `write_rows` wrote.

    Raises:
        MrlError: no such file; a line that is no row; an id that is there twice.
    """
    rows: list[Row] = []
    places: dict[str, str] = {}
    for where, raw in read_jsonl(path):
        row = _row(raw, where)
        check_new_id(places, row.id, where)
        rows.append(row)
    return rows


def line_of(row: Row) -> str:
    """A row as one line of JSON."""
    values = {name: getattr(row, name) for name in _FIELDS}
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, {}, ()) and not (name == "start" and not value)
    }
    return json.dumps(fields, sort_keys=True, ensure_ascii=False)


def hours_of(rows: Sequence[Row]) -> float:
    """Hours of the rows' clips."""
    return sum(row.seconds or 0.0 for row in rows) / 3600


def rule_of(dropped: str) -> str:
    """The rule behind a reason, which is the same for all rows: without what this row has.

    "filter: score.snr_db is 3.1, expected 5 or more" is "filter: score.snr_db, expected 5 or more".
    """
    head, expected, rule = dropped.partition(", expected ")
    return f"{head.partition(' is ')[0]}{expected}{rule}" if expected else head


def _row(raw: Mapping[str, Any], where: str) -> Row:
    hint = "expected rows as `mrl-jax curate` writes them"
    fields = {name: value for name, value in raw.items() if value is not None}
    for name, value in fields.items():
        if name not in _FIELDS:
            raise MrlError(f"{name!r} is no field of a row", where=where, hint=hint)
        if not _is_right(name, value):
            raise MrlError(f"{name!r} is {value!r:.60}", where=where, hint=hint)
    if "id" not in fields:
        raise MrlError("has no id", where=where, hint=hint)
    numbers = {name: float(fields[name]) for name in _NUMBERS if name in fields}
    history = tuple(fields.get("history", ()))
    return Row(**{**fields, **numbers, "history": history})


def _is_right(name: str, value: Any) -> bool:
    if name == "measured":
        return isinstance(value, dict) and all(_is_measure(one) for one in value.values())
    if name == "history":
        return isinstance(value, list) and all(isinstance(line, str) for line in value)
    if name in _NUMBERS:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def _is_measure(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _number(value: Any, name: str, row: str) -> Any:
    """A number as tables hold it; texts and whole numbers pass."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        raise MrlError(f"{name} is {value}, expected a finite number", where=f"row {row!r}")
    return round(float(value), DIGITS) + 0.0  # No -0.0.
