"""Tables on disk, row by row: JSON Lines, TSV, CSV and parquet, and the fields of a row.

Every row comes with where it stands, so that whoever reads it can name the line. In parquet
of the Hugging Face hub a column of classes holds numbers, whose names stand in the schema's
metadata: the rows given here hold the names.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError, first_line

Row = tuple[str, dict[str, Any]]
"""Where a row stands (file and line), and its columns."""


def read_rows(
    file: Path, *, header: Sequence[str] = (), columns: Sequence[str] | None = None
) -> Iterator[Row]:
    """Every row of a table, in the order of the file.

    Args:
        file: .jsonl, .tsv, .csv or .parquet; the first line of .tsv and .csv names columns.
        header: columns that .tsv and .csv must have.
        columns: those of .parquet to read, where they are there; all by default.

    Raises:
        MrlError: the file is not what its name says; a line is malformed; pyarrow is absent.
    """
    if file.suffix == ".jsonl":
        return _read_jsonl(file)
    if file.suffix == ".tsv":
        return _read_tsv(file, header)
    if file.suffix == ".csv":
        return _read_csv(file, header)
    if file.suffix == ".parquet":
        return _read_parquet(file, columns)
    problem = f"is of the kind {file.suffix or 'without an ending'}, expected a table"
    raise MrlError(problem, where=file, hint="give .jsonl, .csv, .tsv or .parquet")


def row_id(where: str, row: Mapping[str, Any], key: str) -> str:
    """The name under `key`, which may be a whole number in the file."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return row_text(where, row, key, required=True)


def row_text(where: str, row: Mapping[str, Any], key: str, *, required: bool = False) -> Any:
    """The text under `key`; None where it is absent, unless it is required."""
    value = row.get(key)
    if value is None and not required:
        return None
    if value is None:
        has = ", ".join(f"`{name}`" for name in row) or "nothing"
        raise MrlError(f"has no `{key}` (it has {has})", where=where, hint=f"add `{key}`")
    if not isinstance(value, str):
        problem = f"`{key}` is {value!r:.60}, expected text"
        raise MrlError(problem, where=where, hint="write it as a string")
    if not value.strip():
        raise MrlError(f"`{key}` is empty", where=where, hint="fill it, or leave the row out")
    return value


def row_audio(where: str, value: Any, folder: Path) -> Path | bytes | None:
    """A recording: a path, or the struct of a Hugging Face audio column: `bytes`, else `path`."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or (isinstance(value, bytes) and value):
        return value
    if isinstance(value, str) and value:
        return folder / value
    problem = f"`audio` is {value!r:.40}, expected a path or a Hugging Face audio column"
    raise MrlError(problem, where=where, hint="give a path, absolute or relative to the folder")


def refuse(ids: Sequence[str], problem: str, where: Path) -> None:
    """Raise if there are any, naming the first five and how many there are."""
    if ids:
        named = ", ".join(map(repr, ids[:5])) + (", …" if len(ids) > 5 else "")
        raise MrlError(f"{problem}: {len(ids)} ({named})", where=where, hint="correct the tables")


def _read_lines(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}, line {number}", line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise MrlError("is not UTF-8", where=file, hint="save it as UTF-8") from error


def _read_jsonl(file: Path) -> Iterator[Row]:
    for where, line in _read_lines(file):
        try:
            row = json.loads(line)
        except ValueError as error:
            problem = f"is not JSON ({first_line(error)})"
            raise MrlError(problem, where=where, hint="write one JSON object a line") from error
        if not isinstance(row, dict):
            problem = f"is {line.strip()[:40]}, expected a JSON object"
            raise MrlError(problem, where=where, hint="write one JSON object a line")
        yield where, row


def _read_tsv(file: Path, expected: Sequence[str]) -> Iterator[Row]:
    header: list[str] = []
    for where, line in _read_lines(file):
        fields = [field.strip() for field in line.split("\t")]
        if not header:
            header = fields
            _check_header(header, expected, where, line, "tabs")
        else:
            yield where, _named(header, fields, where, "tab")


def _read_csv(file: Path, expected: Sequence[str]) -> Iterator[Row]:
    """Fields may be quoted, and then hold commas and ends of lines."""
    start = 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header: list[str] = []
            for fields in reader:
                where, start = f"{file}, line {start}", reader.line_num + 1
                if not header:
                    header = [field.strip() for field in fields]
                    _check_header(header, expected, where, ",".join(header), "commas")
                elif fields:
                    yield where, _named(header, fields, where, "comma")
    except UnicodeDecodeError as error:
        raise MrlError("is not UTF-8", where=file, hint="save it as UTF-8") from error
    except csv.Error as error:
        problem = f"is not CSV ({first_line(error)})"
        raise MrlError(problem, where=f"{file}, line {start}", hint="check its quotes") from error


def _check_header(
    header: Sequence[str], expected: Sequence[str], where: str, line: str, marks: str
) -> None:
    needed = list(expected)
    if not set(needed) <= set(header):
        hint = f"head the columns {', '.join(needed)}, with {marks} between"
        raise MrlError(f"has the header {line[:60]!r}", where=where, hint=hint)


def _named(header: Sequence[str], fields: Sequence[str], where: str, mark: str) -> dict[str, Any]:
    if len(fields) != len(header):
        problem = f"has {len(fields)} columns, expected {len(header)}"
        raise MrlError(problem, where=where, hint=f"separate the columns by one {mark} each")
    return dict(zip(header, fields, strict=True))


def _read_parquet(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        problem = "reading parquet takes pyarrow, which is not installed"
        hint = "install the extra: `pip install 'mrl_jax[train]'`"
        raise MrlError(problem, where=file, hint=hint) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            classes = _class_names(table.schema_arrow.metadata)
            wanted = columns and [name for name in table.schema_arrow.names if name in columns]
            # Recordings are large.
            for batch in table.iter_batches(batch_size=64, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    where = f"{file}, row {number}"
                    for column in classes.keys() & row.keys():
                        row[column] = _class_name(where, column, row[column], classes[column])
                    yield where, row
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"cannot be read as parquet ({first_line(error)})"
        raise MrlError(problem, where=file, hint="download or write it again") from error


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of the classes of each `ClassLabel` column, from what `datasets` wrote."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: list(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_name(where: str, column: str, value: Any, names: Sequence[str]) -> str | None:
    """None for −1, which is how `datasets` writes that a label is withheld."""
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        problem = f"`{column}` is {value!r:.40}, expected a class from 0 to {len(names) - 1}"
        raise MrlError(problem, where=where, hint="download or write the table again")
    return names[value]
