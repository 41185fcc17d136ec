"""The process that reads Parquet and Arrow files for `arrow_reader`.

It runs as a script and imports nothing of the package. Requests are lines of JSON on its input;
replies are pickles of plain values on its output. Its memory, and its processor time for each
batch of rows, are limited, as a file may claim anything; a damaged one may end it.
"""

import contextlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.ipc
import pyarrow.parquet
from pyarrow import types

BATCH_BYTES = 16 << 20
BATCH_ROWS = 512
PLAIN = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
compute: Any = pyarrow.compute
"""Its functions are made when it is imported, which no type checker sees."""
SIZED = (types.is_binary, types.is_large_binary, types.is_string, types.is_large_string)
Batches = Iterator[pa.RecordBatch]


def main() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # It ends with the process that reads from it.
    os.dup2(2, 1)  # What a library prints is no reply.
    pa.set_memory_pool(pa.system_memory_pool())  # Others reserve address space of their own.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    limits = json.loads(sys.argv[1])
    _limit_memory(limits["memory"])
    for line in sys.stdin.buffer:
        for reply in _replies(json.loads(line), limits):
            pickle.dump(reply, replies, protocol=5)
            replies.flush()


def _replies(request: dict[str, Any], limits: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The description of a table, its rows batch by batch, and an end or an error."""
    row = request["first"]
    try:
        _limit_seconds(limits["seconds"])
        with _opened(Path(request["file"])) as (schema, open_batches):
            if row < 0:
                open_batches = _no_batches
            yield {"columns": [_column(field) for field in schema], "features": _features(schema)}
            wanted = None if request["columns"] is None else _existing(request["columns"], schema)
            for batch in open_batches(wanted, row):
                names = batch.schema.names
                # Before a copy is made of it, where the stored form says how large a cell is.
                largest = max(map(_largest_stored, batch.columns), default=0)
                rows = []
                if largest <= limits["cell"]:
                    rows = [dict(zip(names, values, strict=True)) for values in _cells(batch)]
                    largest = _largest(rows)
                if largest > limits["cell"]:
                    yield {"error": "cell", "bytes": largest, "row": row}
                    return
                yield {"rows": rows, "bytes": batch.nbytes}
                row += len(rows)
                del rows, batch
                _limit_seconds(limits["seconds"])
        yield {"end": True}
    except (MemoryError, pa.ArrowMemoryError):
        yield {"error": "memory", "row": row}
    except Exception as error:  # Whatever Arrow says of a damaged file.
        yield {"error": "damaged", "message": str(error) or type(error).__name__, "row": row}


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[pa.Schema, Any]]:
    """The schema of a file, and a function from columns and a first row to batches."""
    if file.suffix == ".arrow":
        with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
            yield stream.schema, lambda wanted, first: _stream_batches(stream, wanted, first)
    else:
        with pyarrow.parquet.ParquetFile(
            file, buffer_size=1 << 20, page_checksum_verification=True
        ) as table:
            yield table.schema_arrow, lambda wanted, first: _parquet_batches(table, wanted, first)


def _no_batches(wanted: Sequence[str] | None, first: int) -> Batches:
    """For a request that only asks for the columns."""
    return iter(())


def _parquet_batches(table: Any, wanted: Sequence[str] | None, first: int) -> Batches:
    """Rows from the first on; the row groups before it are not read."""
    if wanted is not None and not wanted:  # No column: Arrow would read all.
        for start in range(first, table.metadata.num_rows, BATCH_ROWS):
            rows = min(BATCH_ROWS, table.metadata.num_rows - start)
            yield pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
        return
    groups, end, skipped = [], 0, 0
    for number in range(table.metadata.num_row_groups):
        end += table.metadata.row_group(number).num_rows
        if end > first:
            groups.append(number)
        else:
            skipped = end
    size = _rows_a_batch(table.metadata, groups, wanted)
    skip = first - skipped
    for batch in table.iter_batches(size, row_groups=groups, columns=wanted, use_threads=False):
        if skip < batch.num_rows:
            yield batch.slice(skip)
        skip = max(skip - batch.num_rows, 0)


def _rows_a_batch(metadata: Any, groups: Sequence[int], wanted: Sequence[str] | None) -> int:
    """As many rows as make about `BATCH_BYTES`, if the file tells the truth."""
    total, rows = 0, 0
    for number in groups:
        group = metadata.row_group(number)
        rows += group.num_rows
        for index in range(group.num_columns):
            chunk = group.column(index)
            path = chunk.path_in_schema
            if chunk.physical_type != metadata.schema.column(index).physical_type:
                raise ValueError(f"its footer gives {path} two types")
            if wanted is None or any(path == w or path.startswith(f"{w}.") for w in wanted):
                total += max(chunk.total_uncompressed_size, 0)
    return min(max(BATCH_BYTES * rows // max(total, 1), 1), BATCH_ROWS)


def _stream_batches(stream: Any, wanted: Sequence[str] | None, first: int) -> Batches:
    for whole in stream:
        skipped, first = min(first, whole.num_rows), max(first - whole.num_rows, 0)
        size = BATCH_BYTES * whole.num_rows // max(whole.nbytes, 1)
        size = min(max(size, 1), BATCH_ROWS)
        for start in range(skipped, whole.num_rows, size):
            batch = whole.slice(start, size)
            batch = batch if wanted is None else _chosen(batch, wanted)
            batch.validate(full=True)
            yield batch


def _chosen(batch: pa.RecordBatch, wanted: Sequence[str]) -> pa.RecordBatch:
    """The wanted columns; "audio.path" is a structure with this field alone."""
    columns: dict[str, Any] = {}
    for name in wanted:
        top, dot, leaf = name.partition(".")
        if name in batch.schema.names or not dot:
            columns[name] = batch.column(name)
        else:
            field = _fields(batch.column(top))[leaf]
            columns[top] = pa.StructArray.from_arrays([field], [leaf])
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _existing(columns: Sequence[str], schema: pa.Schema) -> list[str]:
    """Those of the columns that there are; the dot in "audio.path" leads into a structure."""
    return [c for c in columns if c in schema.names or c.partition(".")[0] in schema.names]


def _column(field: pa.Field) -> list[Any]:
    """Name, type, kind (text, bytes, structure or other) and names of the fields."""
    kind = _stored(field.type)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    binary = binary or types.is_fixed_size_binary(kind)
    fields = [part.name for part in kind] if types.is_struct(kind) else []
    word = "text" if text else "bytes" if binary else "structure" if fields else "other"
    return [field.name, str(field.type)[:80], word, fields]


def _stored(kind: pa.DataType) -> pa.DataType:
    """The type of the values behind a dictionary or an extension."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def _features(schema: pa.Schema) -> str:
    """What Hugging Face's `datasets` wrote about the columns, as JSON; "" where it did not."""
    return (schema.metadata or {}).get(b"huggingface", b"").decode("utf-8", "replace")


def _cells(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    if not batch.num_columns:
        return iter([()] * batch.num_rows)
    return zip(*(_values(column) for column in batch.columns), strict=True)


def _values(column: Any) -> list[Any]:
    """The cells of a column as plain values."""
    if isinstance(column.type, pa.BaseExtensionType):  # Such as a UUID, which becomes text.
        return [_plain(value) for value in column.to_pylist()]
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if types.is_struct(kind) and kind.get_field_index("array") >= 0:
        parts = _fields(column)
        array = list(map(_array, parts.pop("array")))
        fields = {name: _values(part) for name, part in parts.items()} | {"array": array}
        rows = zip(*fields.values(), strict=True)
        known = zip(rows, column.is_valid().to_pylist(), strict=True)
        return [dict(zip(fields, row, strict=True)) if valid else None for row, valid in known]
    values = column.to_pylist()
    if _column(pa.field("", kind))[2] in ("text", "bytes") or any(is_(kind) for is_ in PLAIN):
        return values
    return [_plain(value) for value in values]


def _fields(column: Any) -> dict[str, Any]:
    """The fields of a structure by name, null where the structure is."""
    return dict(zip((field.name for field in column.type), column.flatten(), strict=True))


def _array(scalar: Any) -> dict[str, Any] | None:
    """A list of numbers, or one for each channel, as their bytes in the machine's order."""
    if not scalar.is_valid:
        return None
    values = scalar.values
    if types.is_list(values.type) or types.is_large_list(values.type):
        numbers = np.stack([_numbers(channel.values) for channel in values])
    else:
        numbers = _numbers(values)
    return {"dtype": numbers.dtype.str, "shape": list(numbers.shape), "data": numbers.tobytes()}


def _numbers(values: Any) -> Any:
    numbers = values.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "iuf":
        raise ValueError(f"`array` holds {values.type}, expected numbers")
    return numbers


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | bytes | bool | int | float | None) else str(value)


def _largest_stored(column: Any) -> int:
    """Bytes of the largest text or recording in a column or its fields; 0 of other encodings."""
    if types.is_struct(column.type):
        return max(map(_largest_stored, column.flatten()), default=0)
    if any(is_(column.type) for is_ in SIZED):
        return compute.max(compute.binary_length(column)).as_py() or 0
    return 0


def _largest(rows: Sequence[dict[str, Any]]) -> int:
    """Bytes of the largest text, recording or array."""
    most = 0
    for row in rows:
        for value in row.values():
            parts = value.values() if isinstance(value, dict) else (value,)
            for part in parts:
                part = part["data"] if isinstance(part, dict) and "data" in part else part
                if isinstance(part, str | bytes):
                    most = max(most, len(part))
    return most


def _limit_memory(more: int) -> None:
    """No more address space than is used now and `more` bytes, where the system can tell."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _limit_seconds(more: int) -> None:
    """No more processor time than was used up to now and `more` seconds."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + more
        most = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, most))


if __name__ == "__main__":
    main()
