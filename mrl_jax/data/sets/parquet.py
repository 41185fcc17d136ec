"""Hugging Face data sets in Parquet: recordings and texts side by side in one table."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.sets import tables
from mrl_jax.data.sets.manifest import REQUIRED, EmbeddedAudio, Example, check_fields

_BATCH = 16
"""Rows of audio held at a time."""

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
    has a folder a split. The split is the `split` column's, or that of the file's name.

    Raises:
        MrlError: there is no table, or one of several would have to be chosen; a file is
            not Parquet; a column is absent; a row is as `check_fields` refuses it; two rows
            have one id.
    """
    source, columns = user_path(source), columns or ParquetColumns()
    examples: list[Example] = []
    places: dict[str, str] = {}
    counts: dict[str, int] = {}
    for file in _files(source):
        split = tables.split_of(file)
        for row, (where, fields) in enumerate(_rows(file, columns)):
            path = fields.pop("audio")
            fields = {"split": split} | fields
            name = f"{fields['split']}-{counts.get(fields['split'], 0)}"
            fields = check_fields({"id": name} | fields | {"audio": path or where}, where)
            counts[fields["split"]] = counts.get(fields["split"], 0) + 1
            tables.check_new_id(places, fields["id"], where, hint=OTHER_ID)
            fields["audio"] = file.parent / path if path else EmbeddedAudio(file=file, row=row)
            examples.append(Example(**fields))
    if not examples:
        raise MrlError("the tables have no rows", where=source, hint="check the download")
    return examples


class EmbeddedReader:
    """The bytes of embedded recordings, cheapest in the order of their rows.

    Only a few rows are held at a time. Not for use by several threads at once.
    """

    def __init__(self, column: str = "audio"):
        self._column = column
        self._file: Path | None = None
        self._rows: Iterator[Any] = iter(())
        self._next = 0

    def read(self, audio: EmbeddedAudio) -> bytes:
        """The encoded recording; empty where the row has none."""
        if audio.file != self._file or audio.row < self._next:
            self._file, self._next, self._rows = audio.file, 0, self._recordings(audio.file)
        skipped, self._next = audio.row - self._next, audio.row + 1
        recording = next(itertools.islice(self._rows, skipped, None), None)
        if recording is None:
            problem = "cannot be read (rows are missing)"
            raise MrlError(problem, where=audio, hint="download the file again")
        return recording.as_py() or b""

    def _recordings(self, file: Path) -> Iterator[Any]:
        with tables.open_parquet(file) as table:
            nested = table.schema_arrow.field(self._column).type.num_fields > 0
            leaf = f"{self._column}.bytes" if nested else self._column
            for batch in table.iter_batches(_BATCH, columns=[leaf]):
                yield from batch.column(0).field("bytes") if nested else batch.column(0)


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise MrlError("no such file or folder", where=source, hint="check the path")
    for folder in (source, source / "data"):
        if files := tables.parquet_shards(folder):
            return files
    files = sorted(source.glob("*/*.parquet")) or sorted(source.glob("*/*/*.parquet"))
    by_split = all(file.parent.name in tables.SPLITS for file in files)
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


def _rows(file: Path, columns: ParquetColumns) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of each row; `audio` is None for embedded bytes, or the path of a file."""
    with tables.open_parquet(file) as table:
        wanted = _wanted(table.schema_arrow.names, columns, file)
        audio = wanted.pop("audio")
        path = _path_column(table, audio, file)
    read: list[str] = sorted({*wanted.values(), *([path] if path else [])})
    for where, row in tables.read_rows(file, columns=read):
        fields = {field: row[column] for field, column in wanted.items()}
        value = row[audio] if path else None
        fields["audio"] = value["path"] if isinstance(value, dict) else value
        # A row without its audio is for the builder to name and count.
        yield where, {key: v for key, v in fields.items() if v is not None or key == "audio"}


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


def _path_column(table: Any, audio: str, file: Path) -> str | None:
    """The column with the paths of recordings, where the table does not hold their bytes."""
    from pyarrow import types

    kind = table.schema_arrow.field(audio).type
    if types.is_string(kind) or types.is_large_string(kind):
        return audio
    if types.is_binary(kind) or types.is_large_binary(kind):
        return None
    fields = [field.name for field in kind] if types.is_struct(kind) else []
    if "bytes" in fields and not ("path" in fields and _all_null(table, f"{audio}.bytes")):
        return None
    if "path" in fields:
        return f"{audio}.path"
    raise MrlError(
        f"the column {audio!r} is of type {str(kind)[:80]}, expected bytes, or a structure of "
        "`bytes` and `path`",
        where=file,
        hint="name the right one: `--column audio=NAME`",
    )


def _all_null(table: Any, leaf: str) -> bool:
    """Whether the statistics of the file say that a column has no value."""
    groups = [table.metadata.row_group(group) for group in range(table.metadata.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    known = [(c.statistics, c.num_values) for c in chunks if c.path_in_schema == leaf]
    return all(s and s.has_null_count and s.null_count == rows for s, rows in known)
