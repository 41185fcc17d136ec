"""Parquet and Arrow files, read by a process of their own.

A few flipped bits in a Parquet footer make the library call `abort`, and a few kilobytes can
unfold to gigabytes. So another process reads, with bounded memory and processor time, and sends
plain rows; whatever becomes of it is one line here.
"""

import contextlib
import dataclasses
import json
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require

WORKER = Path(__file__).with_name("arrow_worker.py")
MEMORY = 3 << 29
"""Bytes that reading may take, beside the library itself."""
CELL = 1 << 28
"""Bytes of the largest text or recording in a table."""
SECONDS = 8
"""Processor time of a batch of rows."""
UNFOLDED, RATIO = 1 << 29, 300
"""Bytes of rows that a file may hold: so many, and so many times its size more."""
_ROW = 512
"""Bytes that a row takes besides its cells."""

DOWNLOAD = "download or write it again"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its Arrow type in words, and its kind.

    Attributes:
        kind: "text", "bytes", "structure" or "other", whatever encodes it.
        fields: names of those of a structure.
    """

    name: str
    type: str
    kind: str
    fields: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TableInfo:
    """The columns of a table by name, and the JSON that `datasets` wrote of them, or ""."""

    columns: dict[str, Column]
    features: str


class ArrowReader:
    """Reads tables one after the other. A context manager; not for several threads at once."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._idle = True

    def __enter__(self) -> "ArrowReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; the next table starts another."""
        process, self._process, self._idle = self._process, None, True
        if process is not None:
            _end(process, seconds=0.0)

    def describe(self, file: Path) -> TableInfo:
        """The columns of a table. Raises as `rows`."""
        (reply,) = self._ask(file, [], -1)
        return _table_info(reply)

    def rows(
        self, file: Path, *, columns: Sequence[str] | None = None, first: int = 0
    ) -> tuple[TableInfo, Iterator[dict[str, Any]]]:
        """A table's columns, and its rows as plain values, in their order.

        A list of samples under `array`, in a structure, comes as {"dtype", "shape", "data"}.

        Args:
            file: .parquet, or .arrow as `save_to_disk` writes it.
            columns: those to read, where they are there; all by default. "audio.path" is a
                structure with one field.
            first: the row to begin with, from 0.

        Raises:
            MrlError: pyarrow is absent; the file cannot be read, or not within the limits.
        """
        replies = self._ask(file, columns, first)
        reply = next(replies)
        info = _table_info(reply)
        names = [values[0] for values in reply["columns"]]
        wanted = set(names) if columns is None else {c.partition(".")[0] for c in columns}
        if twice := [name for name in info.columns if name in wanted and names.count(name) > 1]:
            hint = "rename one of them"
            raise MrlError(f"has two columns that are called {twice[0]!r}", where=file, hint=hint)
        return info, (row for reply in replies for row in reply["rows"])

    def _ask(
        self, file: Path, columns: Sequence[str] | None, first: int
    ) -> Iterator[dict[str, Any]]:
        """All replies to a request but the last."""
        require("pyarrow", by="reading Parquet", where=file)
        if not file.is_file():
            kind = "is no regular file" if file.exists() else "no such file"
            raise MrlError(kind, where=file, hint="check the path")
        if not self._idle:  # The rows of the last request were not all read.
            self.close()
        process = self._started()
        self._idle = False
        request = {"file": str(file), "columns": columns, "first": first}
        allowed, taken = UNFOLDED + RATIO * file.stat().st_size, 0
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while True:
                reply = _PlainUnpickler(process.stdout).load()
                if "error" in reply:
                    self._idle = True
                    _refuse(file, reply)
                if "end" in reply:
                    self._idle = True
                    return
                taken += reply.get("bytes", 0) + _ROW * len(reply.get("rows", ()))
                if taken > allowed:
                    self.close()
                    problem = f"unfolds to more than {taken >> 20} MB of rows"
                    raise MrlError(problem, where=file, hint=f"if it should, {DOWNLOAD}")
                yield reply
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            self._process, self._idle = None, True
            raise _ended(file, process) from error

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            limits = json.dumps({"memory": MEMORY, "cell": CELL, "seconds": SECONDS})
            # -P: the folder of the script holds modules that are not meant for it.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER), limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            weakref.finalize(self, _end, self._process, seconds=0.0)
        return self._process


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values only, though the sender is our own."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no plain value")


def _table_info(reply: dict[str, Any]) -> TableInfo:
    columns = [Column(x[0], x[1], x[2], tuple(x[3])) for x in reply["columns"]]
    return TableInfo({column.name: column for column in columns}, reply["features"])


def _refuse(file: Path, reply: dict[str, Any]) -> NoReturn:
    place = f"{file}, row {reply['row'] + 1}"
    if reply["error"] == "cell":
        problem = f"holds a cell of {reply['bytes'] >> 20} MB, expected {CELL >> 20} MB at most"
        hint = "keep large recordings in files, and put their paths into the table"
        raise MrlError(problem, where=place, hint=hint)
    if reply["error"] == "memory":
        problem = f"takes more than {MEMORY / (1 << 30):g} GB of memory to read"
        raise MrlError(problem, where=place, hint=DOWNLOAD)
    message = reply["message"].strip().splitlines()[0][:160]
    raise MrlError(f"cannot be read as {_format(file)} ({message})", where=file, hint=DOWNLOAD)


def _ended(file: Path, process: subprocess.Popen[bytes]) -> MrlError:
    """The error for a process that is no longer there."""
    _end(process, seconds=10.0)
    number = -process.returncode
    names = {member.value: member.name for member in signal.Signals}
    reason = f"its reader ended by {names[number]}" if number in names else "its reader ended"
    if names.get(number) == "SIGXCPU":
        reason = f"a batch of rows takes more than {SECONDS} s of processor time"
    problem = f"cannot be read as {_format(file)} ({reason})"
    return MrlError(problem, where=file, hint=DOWNLOAD)


def _format(file: Path) -> str:
    return "Arrow" if file.suffix == ".arrow" else "Parquet"


def _end(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    """Wait for the end of a process, and then bring it about."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
