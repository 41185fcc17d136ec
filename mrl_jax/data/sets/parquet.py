"""Hugging Face data sets in Parquet: recordings and texts side by side in one table."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.data.sets.manifest import REQUIRED, EmbeddedAudio, Example, check_fields

SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")


_BATCH = 16
"""Rows of audio held at a time."""


@dataclass(frozen=True, kw_only=True)
class ParquetColumns:
    """Which column of a table is which field of an `Example`.

    `audio` and `text` must be there. Another column is used if it is there, unless its name
    was changed from the default: then it must be. None uses no column; without `id` rows
    are called `train-0`, `train-1` and so on, by their split.
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
    has a folder a split. The split is the `split` column's, or told by the file's name.

    Raises:
        MrlError: there is no table, or one of several would have to be chosen; a file is
            not Parquet; a column is absent; a row is as `check_fields` refuses it; two rows
            have one id.
    """
    source, columns = Path(source), columns or ParquetColumns()
    examples: list[Example] = []
    rows: dict[str, str] = {}
    counts: dict[str, int] = {}
    for file in _files(source):
        split = split_of(file)
        for row, fields in enumerate(_rows(file, columns)):
            where = f"{file} row {row}"
            path = fields.pop("audio")
            fields = {"split": split} | fields
            name = f"{fields['split']}-{counts.get(fields['split'], 0)}"
            fields = check_fields({"id": name} | fields | {"audio": path or where}, where)
            counts[fields["split"]] = counts.get(fields["split"], 0) + 1
            first = rows.setdefault(fields["id"], where)
            if first != where:
                raise MrlError(
                    f"the id {fields['id']!r} is that of {first} as well",
                    where=where,
                    hint="choose another column for `id`, or none (`id=`) to number the rows",
                )
            fields["audio"] = file.parent / path if path else EmbeddedAudio(file=file, row=row)
            examples.append(Example(**fields))
    if not examples:
        raise MrlError("the tables have no rows", where=source, hint="check the download")
    return examples


def split_of(file: Path) -> str:
    """The split that a file's name tells, or its folder's; "train" where neither does."""
    sharded = re.match(r"([A-Za-z0-9_]+)-\d+-of-\d+", file.stem)
    if sharded:
        return sharded[1]
    for word in (re.split(r"[^A-Za-z]", file.stem)[0], file.parent.name):
        if word in SPLITS:
            return word
    return "train"


class EmbeddedReader:
    """The bytes of embedded recordings, cheapest in the order of their rows.

    Only a few rows are held at a time. Not for use by several threads at once.
    """

    def __init__(self, column: str = "audio"):
        self._column = column
        self._file: Path | None = None
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._start = 0
        self._stop = 0

    def read(self, audio: EmbeddedAudio) -> bytes:
        """The encoded recording; empty where the row has none."""
        if audio.file != self._file or audio.row < self._start:
            self._file, self._start, self._stop = audio.file, 0, 0
            table = _open(audio.file)
            kind = table.schema_arrow.field(self._column).type
            leaf = f"{self._column}.bytes" if _is_struct(kind) else self._column
            self._batches = table.iter_batches(_BATCH, columns=[leaf])
        while audio.row >= self._stop:
            try:
                batch = next(self._batches)
            except (OSError, ValueError, StopIteration) as error:  # Arrow's errors are these.
                raise MrlError(
                    f"cannot be read ({first_line(error) or 'rows are missing'})",
                    where=audio,
                    hint="download the file again",
                ) from error
            self._start, self._stop = self._stop, self._stop + len(batch)
            values = batch.column(0)
            self._batch = values.field("bytes") if _is_struct(values.type) else values
        return self._batch[audio.row - self._start].as_py() or b""


def _pyarrow(where: object) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MrlError(
            "reading Parquet takes pyarrow, which is not installed",
            where=where,
            hint="install the extra: `pip install 'mrl_jax[train]'`",
        ) from error
    return pyarrow, parquet


def _is_struct(kind: Any) -> bool:
    return _pyarrow(kind)[0].types.is_struct(kind)


def _open(file: Path) -> Any:
    _, parquet = _pyarrow(file)
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise MrlError(
            f"not a Parquet file, or a part of one ({first_line(error)})",
            where=file,
            hint="download the file again",
        ) from error


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise MrlError("no such file or folder", where=source, hint="check the path")
    for folder in (source, source / "data"):
        if files := sorted(folder.glob("*.parquet")):
            return files
    files = sorted(source.glob("*/*.parquet")) or sorted(source.glob("*/*/*.parquet"))
    if files and all(file.parent.name in SPLITS for file in files):
        folders = {file.parent.parent for file in files}
        if len(folders) == 1:
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


def _rows(file: Path, columns: ParquetColumns) -> Iterator[dict[str, Any]]:
    """The fields of each row; `audio` is None for embedded bytes, or the path of a file."""
    table = _open(file)
    there = table.schema_arrow.names
    wanted: dict[str, str] = {}
    default = asdict(ParquetColumns())
    for field, column in asdict(columns).items():
        if column in there:
            wanted[field] = column
        elif column is not None and (field in REQUIRED[1:] or column != default[field]):
            raise MrlError(
                f"no column {column!r} for {field!r}; the columns there are: {', '.join(there)}",
                where=file,
                hint=f"name the right one: `--column {field}=NAME`",
            )
    audio = wanted.pop("audio")
    path = _path_column(table, audio, file)
    read = sorted({*wanted.values(), *([path] if path else [])})
    for group in range(table.num_row_groups):
        try:
            rows = table.read_row_group(group, columns=read).to_pylist()
        except (OSError, ValueError) as error:
            raise MrlError(
                f"cannot be read ({first_line(error)})", where=file, hint="download it again"
            ) from error
        for row in rows:
            found = {field: row[column] for field, column in wanted.items()}
            value = row[audio] if path else None
            found["audio"] = value["path"] if isinstance(value, dict) else value
            # A row without its audio is the builder's to name and count.
            yield {field: v for field, v in found.items() if v is not None or field == "audio"}


def _path_column(table: Any, audio: str, file: Path) -> str | None:
    """The column with the paths of recordings, where the table does not hold their bytes."""
    types = _pyarrow(file)[0].types
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
    for group in range(table.metadata.num_row_groups):
        chunks = table.metadata.row_group(group)
        for index in range(chunks.num_columns):
            chunk = chunks.column(index)
            if chunk.path_in_schema == leaf:
                told = chunk.statistics
                if told is None or not told.has_null_count or told.null_count < chunks.num_rows:
                    return False
    return True
