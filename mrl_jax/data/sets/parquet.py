"""Hugging Face data sets in Parquet, or as `save_to_disk` writes them: recordings in a table."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.sets import tables
from mrl_jax.data.sets.arrow_reader import ArrowReader, Column
from mrl_jax.data.sets.manifest import REQUIRED, EmbeddedAudio, Example, check_fields

_AHEAD = 1000
"""Rows that are read over; for one further on the table is opened there."""

OTHER_ID = "choose another column for `id`, or none (`id=`) to number the rows"


@dataclass(frozen=True, kw_only=True)
class ParquetColumns:
    """Which column of a table is which field of an `Example`.

    `audio` and `text` must be there. Another column is used if it is there, unless its name
    was changed from the default: then it must be. None uses no column; without `id` rows
    are called `train-0`, `train-1` and so on, by their split.

    Attributes:
        audio, text, id, task, transcript, language, speaker, document_id, split: name of the
            column, in a Parquet table, that holds this field of an example.
    """

    audio: str = "audio"
    text: str = "text"
    id: str | None = "id"
    task: str | None = "task"
    transcript: str | None = "transcript"
    language: str | None = "language"
    speaker: str | None = "speaker"
    document_id: str | None = "document_id"
    split: str | None = "split"


def read_parquet(source: str | Path, columns: ParquetColumns | None = None) -> list[Example]:
    """List the rows of a Parquet file or folder without reading its recordings.

    The folder is as the hub publishes it (`data/train-00000-of-00001.parquet`), or flat, or
    has a folder a split, or `save_to_disk` wrote it. The split is the `split` column's, or
    that of the file's name.

    A row without text has an empty one, and a row without a recording a place that holds none.

    Raises:
        MrlError: there is no table, or one of several would have to be chosen; a file is
            not Parquet; a column is absent; a row is as `check_fields` refuses it; two rows
            have one id.
    """
    source, columns = user_path(source), columns or ParquetColumns()
    examples: list[Example] = []
    places: dict[str, str] = {}
    counts: dict[str, int] = {}
    with ArrowReader() as reader:
        for file in _files(source):
            split = tables.split_of(file)
            for where, fields in _rows(reader, file, columns):
                audio = fields.pop("audio")
                fields = {"split": split} | fields
                name = f"{fields['split']}-{counts.get(fields['split'], 0)}"
                # A row without text or audio is for the builder to name and count.
                text = {} if "text" in fields else {"text": ""}
                fields = {"id": name} | fields | {"audio": str(audio)}
                fields = check_fields({"text": name} | fields, where, hint=_other_column) | text
                counts[fields["split"]] = counts.get(fields["split"], 0) + 1
                tables.check_new_id(places, fields["id"], where, hint=OTHER_ID)
                fields: dict[str, Any] = fields | {"audio": audio}
                examples.append(Example(**fields))
    if not examples:
        raise MrlError("the tables have no rows", where=source, hint="check the download")
    return examples


class EmbeddedReader:
    """The recordings inside tables, cheapest in the order of their rows.

    Only a few rows are held at a time. Not for use by several threads at once.
    """

    def __init__(self, column: str = "audio"):
        self._column = column
        self._reader = ArrowReader()
        self._file: Path | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._next = 0

    def read(self, audio: EmbeddedAudio) -> bytes | Path | None:
        """The encoded recording, or its file where the row only names one; None without either.

        Raises:
            MrlError: as `cell`; samples that are no samples.
        """
        return recording_of(audio, self.cell(audio))

    def cell(self, audio: EmbeddedAudio) -> Any:
        """What the row holds, for `recording_of`.

        Raises:
            MrlError: the table cannot be read, or has fewer rows.
        """
        if audio.file != self._file or not self._next <= audio.row <= self._next + _AHEAD:
            with contextlib.suppress(MrlError):
                # Had the last table been read to its end, its process goes on with this one.
                next(self._rows, None)
            self._file, self._next = audio.file, audio.row
            _, self._rows = self._reader.rows(audio.file, columns=[self._column], first=audio.row)
        row = None
        while self._next <= audio.row:
            row = next(self._rows, None)
            self._next += 1
        if row is None:
            problem = "cannot be read (rows are missing)"
            raise MrlError(problem, where=audio, hint="download the file again")
        return row[self._column]


def recording_of(audio: EmbeddedAudio, cell: Any) -> bytes | Path | None:
    """The recording of a row from what its column holds; see `tables.row_audio`."""
    return tables.row_audio(str(audio), cell, audio.file.parent)


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise MrlError("no such file or folder", where=source, hint="check the path")
    for folder in (source, source / "data"):
        if files := tables.table_shards(folder):
            return files
    if files := tables.saved_shards(source):
        return files
    files = sorted(source.glob("*/*.parquet")) or sorted(source.glob("*/*/*.parquet"))
    by_split = all(_is_split(file.parent.name) for file in files)
    if by_split and len({file.parent.parent for file in files}) == 1:
        return files
    if not files:
        raise MrlError(
            "there is no .parquet file here, nor in data/",
            where=source,
            hint="pass a manifest, or the folder of a Hugging Face data set in Parquet",
        )
    names = ", ".join(sorted({str(file.parent.relative_to(source)) for file in files})[:10])
    raise MrlError(
        f"there are several data sets here: {names}", where=source, hint="pass the folder of one"
    )


def _is_split(folder: str) -> bool:
    """Whether a folder is called after a split: `test`, `train.clean.100`."""
    return folder.partition(".")[0] in tables.SPLITS


def _other_column(field: str) -> str:
    others = f", or none: `--column {field}=`" if field not in REQUIRED[1:] else ""
    return f"choose another column for it: `--column {field}=NAME`{others}"


def _rows(
    reader: ArrowReader, file: Path, columns: ParquetColumns
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of each row; `audio` is a path, or the place of a recording in the table."""
    there = reader.describe(file).columns
    wanted = _wanted(list(there), columns, file)
    audio = wanted.pop("audio")
    inside, path = _audio_parts(there[audio], file)
    read: list[str] = sorted({*wanted.values(), *([path] if path else [])})
    for row, (where, cells) in enumerate(tables.read_arrow(reader, file, read)):
        fields = {field: cells[column] for field, column in wanted.items()}
        value = cells[audio] if path else None
        value = value.get("path") if isinstance(value, dict) else value
        named = file.parent / value if isinstance(value, str) and value else None
        place = EmbeddedAudio(file=file, row=row, path=named if inside else None)
        fields = tables.filled_cells(fields) | {"audio": place if inside or not named else named}
        yield where, fields


def _wanted(there: list[str], columns: ParquetColumns, file: Path) -> dict[str, str]:
    """The column of each field that is in the table."""
    wanted: dict[str, str] = {}
    default = asdict(ParquetColumns())
    for field, column in asdict(columns).items():
        if column in there:
            wanted[field] = column
        elif column is not None and (field in REQUIRED[1:] or column != default[field]):
            has, hint = ", ".join(there), f"name the right one: `--column {field}=NAME`"
            problem = f"no column {column!r} for {field!r}; the columns there are: {has}"
            raise MrlError(problem, where=file, hint=hint)
    return wanted


def _audio_parts(column: Column, file: Path) -> tuple[bool, str | None]:
    """Whether the column holds recordings, and the column, or part of it, with their paths."""
    if column.kind in ("text", "bytes"):
        return column.kind == "bytes", column.name if column.kind == "text" else None
    path = f"{column.name}.path" if "path" in column.fields else None
    inside = "bytes" in column.fields or {"array", "sampling_rate"} <= set(column.fields)
    if path is None and not inside:
        raise MrlError(
            f"the column {column.name!r} is of type {column.type}, expected bytes, a path, or a "
            "structure of `bytes` and `path`, or of `array` and `sampling_rate`",
            where=file,
            hint="name the right one: `--column audio=NAME`",
        )
    return inside, path
