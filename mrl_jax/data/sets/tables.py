"""Tables on disk, row by row: JSON Lines, TSV, CSV and Parquet, and the fields of a row.

Every row comes with its place, so that an error can name the file and line. In Parquet of the
Hugging Face hub a column of classes holds numbers, whose names are in the schema's metadata:
the rows given here hold the names.
"""

import contextlib
import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mrl_jax.core.errors import NO_FILE, MrlError, file_problem, first_line
from mrl_jax.core.extras import require

Row = tuple[str, dict[str, Any]]
"""The place of a row (file and line), and its columns."""

SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
DOWNLOAD = "download or write it again"


def read_rows(
    file: Path, *, header: Sequence[str] = (), columns: Sequence[str] | None = None
) -> Iterator[Row]:
    """Every row of a table, in the order of the file.

    Args:
        file: .jsonl, .tsv, .csv or .parquet; the first line of .tsv and .csv names columns.
        header: columns that .tsv and .csv must have.
        columns: those of .parquet to read, where they are there; all by default. A dot leads
            into a structure: "audio.path".

    Raises:
        MrlError: the file is not what its name says; a line is malformed; pyarrow is absent.
    """
    if file.suffix == ".jsonl":
        return read_jsonl(file)
    if file.suffix in (".tsv", ".csv"):
        return _read_delimited(file, header)
    if file.suffix == ".parquet":
        return _read_parquet(file, columns)
    problem = f"is of the kind {file.suffix or 'without an ending'}, expected a table"
    raise MrlError(problem, where=file, hint="give .jsonl, .csv, .tsv or .parquet")


def read_jsonl(file: Path) -> Iterator[Row]:
    """Every row of a table of JSON objects in UTF-8, one a line; blank lines are skipped."""
    # Bytes, as text mode would also end lines at a lone carriage return.
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            where, hint = f"{file}, line {number}", "write one JSON object a line"
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError as error:
                problem = f"byte {error.start + 1} is not UTF-8"
                raise MrlError(problem, where=where, hint="save it as UTF-8") from error
            except (ValueError, RecursionError) as error:
                problem = f"is not JSON ({first_line(error)})"
                raise MrlError(problem, where=where, hint=hint) from error
            if not isinstance(row, dict):
                problem = f"is {line.decode().strip()[:40]}, expected a JSON object"
                raise MrlError(problem, where=where, hint=hint)
            yield where, row


@contextlib.contextmanager
def open_parquet(file: Path, *, hint: str = DOWNLOAD) -> Iterator[Any]:
    """An open `pyarrow.parquet.ParquetFile`.

    Raises:
        MrlError: pyarrow is absent; the file, or what the block reads of it, is damaged, about
            which `hint` says what to do.
    """
    require("pyarrow", by="reading Parquet", where=file)
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"cannot be read as Parquet ({first_line(error)})"
        raise MrlError(problem, where=file, hint=hint) from error


def split_of(file: Path) -> str:
    """The split in a file's name, or in its folder's; "train" where neither has one."""
    if sharded := re.match(r"([A-Za-z0-9_]+)-\d+-of-\d+", file.stem):
        return sharded[1]
    words = (re.split(r"[^A-Za-z]", file.stem)[0], file.parent.name)
    return next((word for word in words if word in SPLITS), "train")


def parquet_shards(folder: Path, split: str | None = None) -> list[Path]:
    """The Parquet files of a folder, sorted; only those of the split where some are of it."""
    shards = sorted(folder.glob("*.parquet"))
    return [shard for shard in shards if split_of(shard) == split] or shards


def check_new_id(
    places: dict[str, str], name: str, where: str, *, hint: str = "give each example its own id"
) -> None:
    """Raises an `MrlError` where a row before had this id; `places` remembers each."""
    if (first := places.setdefault(name, where)) != where:
        raise MrlError(f"the id {name!r} is that of {first} as well", where=where, hint=hint)


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
    check_surrogates(where, f"`{key}`", value)
    return value


def check_surrogates(where: str, name: str, text: str) -> None:
    """Raises an `MrlError` where a text has half of a surrogate pair, which UTF-8 has not."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise MrlError(f"{name} holds half a surrogate pair", where=where, hint="write UTF-8")


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


def check_files(recordings: Iterable[Path | bytes | None], problem: str, where: Path) -> None:
    """`refuse` those of the recordings that are paths and lead to no file.

    `problem` is what is said where all of them lead nowhere; a pipe or device is named as such.
    """
    reasons = {file: file_problem(file) for file in recordings if isinstance(file, Path)}
    other = [f"{file} {why}" for file, why in reasons.items() if why not in (None, NO_FILE)]
    refuse(other, problem.replace("do not exist", "are no files"), where)
    refuse([str(file) for file, why in reasons.items() if why], problem, where)


def refuse(ids: Sequence[str], problem: str, where: Path) -> None:
    """Raise if there are any, naming the first five and how many there are."""
    if ids:
        named = ", ".join(map(repr, ids[:5])) + (", …" if len(ids) > 5 else "")
        raise MrlError(f"{problem}: {len(ids)} ({named})", where=where, hint="correct the tables")


def _read_delimited(file: Path, expected: Sequence[str]) -> Iterator[Row]:
    """The rows of a .csv or .tsv file by the columns of its first line."""
    split, mark = (_split_csv, "comma") if file.suffix == ".csv" else (_split_tsv, "tab")
    header: list[str] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for where, fields in split(file, lines):
                if not header:
                    header = [field.strip() for field in fields]
                    if not set(expected) <= set(header):
                        problem = f"has the header {','.join(header)[:60]!r}"
                        hint = f"head the columns {', '.join(expected)}, with {mark}s between"
                        raise MrlError(problem, where=where, hint=hint)
                elif len(fields) != len(header):
                    problem = f"has {len(fields)} columns, expected {len(header)}"
                    hint = f"separate the columns by one {mark} each"
                    raise MrlError(problem, where=where, hint=hint)
                else:
                    yield where, dict(zip(header, fields, strict=True))
    except UnicodeDecodeError as error:
        raise MrlError("is not UTF-8", where=file, hint="save it as UTF-8") from error


def _split_tsv(file: Path, lines: IO[str]) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{file}, line {number}", [field.strip() for field in line.split("\t")]


def _split_csv(file: Path, lines: IO[str]) -> Iterator[tuple[str, list[str]]]:
    """Fields may be quoted, and then hold commas and ends of lines."""
    reader, start = csv.reader(lines, strict=True), 1
    try:
        for fields in reader:
            if fields or start == 1:  # An empty first line is a wrong header.
                yield f"{file}, line {start}", fields
            start = reader.line_num + 1
    except csv.Error as error:
        problem = f"is not CSV ({first_line(error)})"
        raise MrlError(problem, where=f"{file}, line {start}", hint="check its quotes") from error


def _read_parquet(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with open_parquet(file) as table:
        names = table.schema_arrow.names
        classes = _class_names(table.schema_arrow.metadata)
        wanted = columns and [c for c in columns if c in names or c.partition(".")[0] in names]
        batches = table.iter_batches(batch_size=64, columns=wanted)  # Recordings are large.
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            where = f"{file}, row {number}"
            for column in classes.keys() & row.keys():
                row[column] = _class_name(where, column, row[column], classes[column])
            yield where, row


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
