"""Pairs of texts, read from JSON Lines or Parquet."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.tables import parquet_shards, read_rows, row_text

COLUMNS = ("query", "document", "task_type")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPair:
    """A query, and the text that answers it.

    Attributes:
        task: its prompt is put before the query; "" is no task.
        where: file and line, for messages.
    """

    query: str
    document: str
    task: str = ""
    where: str = ""


def read_pairs(path: str | Path) -> list[TextPair]:
    """Every pair of a table, in its order.

    Args:
        path: a .jsonl, .csv, .tsv or .parquet file, or a folder of Parquet files, of which
            those of the train split count where there are others.

    Raises:
        MrlError: no such file, or nothing in it; a row without `query` or `document`, or
            with one that is empty, no text, or not UTF-8; each is named by its line.
    """
    pairs = [
        TextPair(
            query=row_text(where, row, "query", required=True),
            document=row_text(where, row, "document", required=True),
            task=row_text(where, row, "task_type") or "",
            where=where,
        )
        for file in _files(Path(path))
        for where, row in read_rows(file, header=COLUMNS[:2], columns=COLUMNS)
    ]
    if not pairs:
        hint = "write a row a pair: `query`, `document`, `task_type`"
        raise MrlError("has no pairs", where=path, hint=hint)
    return pairs


def pairs_digest(pairs: Sequence[TextPair]) -> str:
    """SHA-256 of what is trained on."""
    total = hashlib.sha256()
    for pair in pairs:
        total.update("\0".join((pair.query, pair.document, pair.task, "")).encode())
    return total.hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise MrlError("no such file", where=path, hint="check data.train")
        return [path]
    shards = parquet_shards(path, "train")
    if not shards:
        raise MrlError("has no Parquet files", where=path, hint="name a file, or another folder")
    return shards
