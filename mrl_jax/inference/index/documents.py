"""The documents of an index on disk: a line of JSON each, and where each line begins."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.json_text import parse_json
from mrl_jax.core.npy import open_npy
from mrl_jax.core.records import as_record, readable_as
from mrl_jax.data.sets.corpus import CorpusDocument

LINES, OFFSETS = "documents.jsonl", "offsets.npy"
BUILD_AGAIN = "build the index again: `mrl-jax index build --overwrite`"


class DocumentStore:
    """Documents by row: those of a folder stay on the disk, those added later in memory."""

    def __init__(self, lines: HostArray, offsets: HostArray, path: Path | None = None):
        self._lines, self._offsets, self._path = lines, offsets, path
        self._added: list[bytes] = []

    @classmethod
    def of(cls, documents: Iterable[CorpusDocument]) -> "DocumentStore":
        store = cls(np.zeros(0, np.uint8), np.zeros(1, np.int64))
        store.add(documents)
        return store

    @classmethod
    def load(cls, folder: Path) -> "DocumentStore":
        """Those that `save` wrote.

        Raises:
            MrlError: the files are missing, damaged, or not of one another.
        """
        path, place = folder / LINES, folder / OFFSETS
        offsets = open_npy(place, hint=BUILD_AGAIN)
        with readable_as("the documents of an index", path, hint=BUILD_AGAIN):
            size = path.stat().st_size
            lines = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
            if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
                raise ValueError(f"{place.name} is {offsets.dtype} of shape {offsets.shape}")
            if offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) <= 0).any():
                raise ValueError(f"{place.name} is that of another file")
        return cls(lines, offsets, path)

    def __len__(self) -> int:
        return len(self._offsets) - 1 + len(self._added)

    def __getitem__(self, row: int) -> CorpusDocument:
        where = self._path or Path(LINES)
        with readable_as("the documents of an index", where, hint=BUILD_AGAIN):
            return as_record(parse_json(self._line(row)), CorpusDocument)

    def id_of(self, row: int) -> str:
        """The id of a document."""
        with readable_as("the documents of an index", self._path or Path(LINES), hint=BUILD_AGAIN):
            return str(parse_json(self._line(row))["id"])

    def add(self, documents: Iterable[CorpusDocument]) -> None:
        """Append documents, in memory."""
        self._added += [_line_of(document) for document in documents]

    def save(self, folder: Path, live: Bool[HostArray, " N"]) -> None:
        """Write those documents that are `live`, in their order."""
        ends = []
        with (folder / LINES).open("wb") as file:
            for row in np.flatnonzero(live):
                file.write(self._line(int(row)))
                ends.append(file.tell())
        np.save(folder / OFFSETS, np.asarray([0, *ends], np.int64), allow_pickle=False)

    def _line(self, row: int) -> bytes:
        on_disk = len(self._offsets) - 1
        if row >= on_disk:
            return self._added[row - on_disk]
        return self._lines[self._offsets[row] : self._offsets[row + 1]].tobytes()


def document_row(document: CorpusDocument) -> dict[str, Any]:
    """A document as JSON has it; `as_record(row, CorpusDocument)` reads it back."""
    row: dict[str, Any] = {"id": document.id, "text": document.text}
    row |= {name: getattr(document, name) for name in ("title", "span")}
    return row | {"fields": dict(document.fields)}


def _line_of(document: CorpusDocument) -> bytes:
    row = document_row(document)
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        problem, where = f"its fields are no JSON ({error})", f"document {document.id!r}"
        raise MrlError(problem, where=where, hint="keep text and numbers") from error
