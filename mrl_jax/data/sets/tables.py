"""Tables on disk, row by row: JSON Lines, TSV, CSV, Parquet and Arrow, and the fields of a row.

Every row comes with its place, so that an error can name the file and line. In tables of
Hugging Face's `datasets` a column of classes holds numbers, whose names are in the schema's
metadata: the rows given here hold the names.
"""

import contextlib
import csv
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mrl_jax.core.errors import NO_FILE, MrlError, file_problem, first_line
from mrl_jax.core.extras import require
from mrl_jax.core.json_text import parse_json
from mrl_jax.core.paths import joined_path
from mrl_jax.core.remote import fetch_files
from mrl_jax.core.text import check_text
from mrl_jax.data.audio.encode import wav_bytes
from mrl_jax.data.sets.arrow_reader import DOWNLOAD, ArrowReader
from mrl_jax.data.sets.issues import IssueLog, list_some

Row = tuple[str, dict[str, Any]]
"""The place of a row (file and line), and its columns."""

SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
ENDINGS = (".jsonl", ".parquet", ".tsv", ".csv")
"""Of the tables that `read_rows` reads, besides the .arrow of `save_to_disk`."""
ARROW = (".parquet", ".arrow")


def read_rows(
    file: Path,
    *,
    header: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    log: IssueLog | None = None,
) -> Iterator[Row]:
    """Every row of a table, in the order of the file; see `read_tables`."""
    return read_tables([file], header=header, columns=columns, log=log)


def read_tables(
    files: Iterable[Path],
    *,
    header: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    log: IssueLog | None = None,
) -> Iterator[Row]:
    """Every row of some tables, one table after the other.

    Args:
        files: .jsonl, .tsv, .csv, .parquet or .arrow; the first line of .tsv and .csv names
            columns.
        header: columns that .tsv and .csv must have.
        columns: those of .parquet and .arrow to read, where they are there; all by default. A
            dot leads into a structure: "audio.path".
        log: gets keys that a line of JSON has twice; a warning is given without it.

    Raises:
        MrlError: a file is not what its name says; a line is malformed; pyarrow is absent.
    """
    with ArrowReader() as reader:
        for file in files:
            if file.suffix == ".jsonl":
                yield from read_jsonl(file, log=log)
            elif file.suffix in (".tsv", ".csv"):
                yield from _read_delimited(file, header)
            elif file.suffix in ARROW:
                yield from read_arrow(reader, file, columns)
            else:
                problem = f"is of the kind {file.suffix or 'without an ending'}, expected a table"
                raise MrlError(problem, where=file, hint="give .jsonl, .csv, .tsv or .parquet")


def read_jsonl(file: Path, *, log: IssueLog | None = None) -> Iterator[Row]:
    """Every row of a table of JSON objects in UTF-8, one a line; blank lines are skipped.

    Of a key that a line has twice the last value counts; `log` is told, or a warning given.
    """
    repeated: list[str] = []
    # Bytes, as text mode would also end lines at a lone carriage return.
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            where, hint = f"{file}, line {number}", "write one JSON object a line"
            try:
                row = parse_json(
                    line,
                    on_repeated_key=lambda key, where=where: repeated.append(f"{where}: {key}"),
                )
            except UnicodeDecodeError as error:
                problem = f"byte {error.start + 1} is not UTF-8"
                raise MrlError(problem, where=where, hint="save it as UTF-8") from error
            except ValueError as error:
                problem = f"is not JSON ({first_line(error)})"
                raise MrlError(problem, where=where, hint=hint) from error
            if not isinstance(row, dict):
                problem = f"is {line.decode().strip()[:40]}, expected a JSON object"
                raise MrlError(problem, where=where, hint=hint)
            yield where, row
    twice = "lines of JSON have a key twice, of which the last value counts"
    if log is not None:
        log.add(twice, repeated, harmless=True)
    elif repeated:
        some = list_some(repeated, len(repeated))
        warnings.warn(f"{file}: {twice}: {len(repeated)} ({some})", stacklevel=2)


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


def named_split(file: Path) -> str | None:
    """The split in a file's name, or in its folder's; None where neither has one.

    Dots become `_`: the split of `train.clean.100/0000.parquet` is `train_clean_100`.
    """
    saved = file.parent / "state.json"  # Of `save_to_disk`, whose files are all called data-...
    if file.suffix == ".arrow" and saved.is_file():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if isinstance(split := parse_json(saved.read_bytes()).get("_split"), str):
                return split.replace(".", "_")
    sharded = re.match(r"([A-Za-z0-9_.]+)-\d+-of-\d+", file.stem)
    if sharded and file.suffix != ".arrow":
        return sharded[1].replace(".", "_")
    for name in (file.stem, file.parent.name):
        word = re.split(r"[^A-Za-z0-9]", name)[0]
        if re.fullmatch(r"[A-Za-z]+(\.[A-Za-z0-9_]+)+", name) and word in SPLITS:
            return name.replace(".", "_")
        if (word in SPLITS and name == file.stem) or name in SPLITS:
            return word
    return None


def split_of(file: Path) -> str:
    """`named_split`, or "train"."""
    return named_split(file) or "train"


def table_shards(folder: Path, split: str | None = None) -> list[Path]:
    """The Parquet or Arrow files of a folder, sorted; only those of the split if there are any."""
    shards = sorted(folder.glob("*.parquet")) or saved_shards(folder)
    return [shard for shard in shards if split_of(shard) == split] or shards


def saved_shards(folder: Path) -> list[Path]:
    """The files of a data set, or of all its splits, that `save_to_disk` wrote; else none."""
    if (folder / "state.json").is_file():
        return sorted(folder.glob("*.arrow"))
    if (folder / "dataset_dict.json").is_file():
        return sorted(folder.glob("*/*.arrow"))
    return []


def filled_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row that hold something: neither null, nor empty text, nor NaN."""

    def is_empty(value: Any) -> bool:
        return value is None or value != value or (isinstance(value, str) and not value.strip())

    return {key: value for key, value in row.items() if not is_empty(value)}


def check_new_id(
    places: dict[str, str], name: str, where: str, *, hint: str = "give each example its own id"
) -> None:
    """Raises an `MrlError` where a row before had this id; `places` remembers each."""
    if (first := places.setdefault(name, where)) != where:
        raise MrlError(f"the id {name!r} is that of {first} as well", where=where, hint=hint)


def as_name(value: Any) -> Any:
    """A number as a name: 7 and 7.0, as pandas writes it, are "7". Others stay as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    return str(int(value) if float(value).is_integer() else value)


def row_id(where: str, row: Mapping[str, Any], key: str) -> str:
    """The name under `key`, which may be a number in the file."""
    return row_text(where, {**row, key: as_name(row.get(key))}, key, required=True)


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
        raise MrlError(problem, where=where, hint="make it text")
    if not value.strip():
        raise MrlError(f"`{key}` is empty", where=where, hint="fill it, or leave the row out")
    check_text(value, f"`{key}`", where=where)
    return value


def row_audio(where: str, value: Any, folder: Path) -> Path | bytes | None:
    """A recording: a path, bytes, or the structure of a Hugging Face audio column.

    Of a structure its `bytes` count, else its `array` at its `sampling_rate`, else its `path`;
    each row has its own. None where there is nothing.
    """
    if isinstance(value, dict):
        inside = value.get("bytes")
        if not inside and value.get("array") is not None:
            return _array_audio(where, value)
        value = inside or value.get("path") or None
    if value is None or value == b"":
        return None
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        check_text(value, "`audio`", where=where, hint="rename the recording, and write UTF-8")
        return joined_path(folder, value)
    problem = f"`audio` is {value!r:.40}, expected a path or a Hugging Face audio column"
    raise MrlError(problem, where=where, hint="give a path, absolute or relative to the folder")


def _array_audio(where: str, value: Mapping[str, Any]) -> bytes:
    """The samples of a row, a list of numbers or as `ArrowReader` has them, as a WAV file."""
    array, rate = value["array"], as_name(value.get("sampling_rate"))
    if not isinstance(rate, str) or not rate.isdigit() or not 0 < int(rate) < 1 << 31:
        problem = f"`sampling_rate` is {value.get('sampling_rate')!r:.40}, expected a whole number"
        raise MrlError(problem, where=where, hint="write the samples a second")
    try:
        if isinstance(array, dict):
            samples = np.frombuffer(array["data"], array["dtype"]).reshape(array["shape"])
        else:
            samples = np.asarray(array)
        return wav_bytes(samples, int(rate))
    except (ValueError, TypeError, KeyError) as error:
        problem = f"`array` cannot be read as samples ({first_line(error)})"
        raise MrlError(problem, where=where, hint="write one row of floats") from error


def check_files(recordings: Iterable[Path | bytes | None], problem: str, where: Path) -> None:
    """`refuse` those of the recordings that are paths and lead to no file.

    `problem` is what is said where all of them lead nowhere; a pipe or device is named as such.
    """
    files = [file for file in recordings if isinstance(file, Path)]
    fetch_files(files)
    reasons = {file: file_problem(file) for file in files}
    other = [f"{file} {why}" for file, why in reasons.items() if why not in (None, NO_FILE)]
    refuse(other, problem.replace("do not exist", "are no files"), where)
    refuse([str(file) for file, why in reasons.items() if why], problem, where)


def refuse(ids: Sequence[str], problem: str, where: Path) -> None:
    """Raise if there are any, naming the first five and how many there are."""
    if ids:
        problem = f"{problem}: {len(ids)} ({list_some(ids, len(ids))})"
        raise MrlError(problem, where=where, hint="correct the tables")


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


def read_arrow(reader: ArrowReader, file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    """The rows of a Parquet or Arrow file, with the names of classes for their numbers."""
    info, rows = reader.rows(file, columns=columns)
    classes = _class_names(info.features)
    for number, row in enumerate(rows, 1):
        where = f"{file}, row {number}"
        for column in classes.keys() & row.keys():
            row[column] = _class_name(where, column, row[column], classes[column])
        yield where, row


def _class_names(written: str) -> dict[str, list[str]]:
    """Names of the classes of each `ClassLabel` column, from what `datasets` wrote."""
    try:
        features = parse_json(written)["info"]["features"]
        return {
            column: list(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_name(where: str, column: str, value: Any, names: Sequence[str]) -> str | None:
    """None for −1 and NaN: so `datasets` and pandas write that a label is withheld."""
    if value is None or value == -1 or value != value:
        return None
    if isinstance(value, float) and value.is_integer():  # As pandas writes a column with nulls.
        value = int(value)
    if not isinstance(value, int) or not 0 <= value < len(names):
        problem = f"`{column}` is {value!r:.40}, expected a class from 0 to {len(names) - 1}"
        raise MrlError(problem, where=where, hint="download or write the table again")
    return names[value]
