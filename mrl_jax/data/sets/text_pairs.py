"""Pairs of texts, read from JSON Lines, CSV or Parquet."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.sets.tables import read_tables, row_id, row_text, table_shards

COLUMNS = ("query", "document", "task_type", "query_id", "document_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPair:
    """A query, and the text that answers it.

    Attributes:
        task: its prompt is put before the query; "" is no task.
        query_id, document_id: identity of each side; without one that is its text. Equal ids of
            a side are never each other's negatives: an intent, a topic, a template.
        where: file and line, for messages.
    """

    query: str
    document: str
    task: str = ""
    query_id: str | None = None
    document_id: str | None = None
    where: str = ""


@checked
def read_pairs(path: str | Path) -> list[TextPair]:
    """Every pair of a table, in its order.

    Args:
        path: a .jsonl, .csv, .tsv or .parquet file, or a folder of Parquet files, of which
            those of the train split count where there are others.

    Raises:
        MrlError: no such file, or nothing in it; a row without `query` or `document`, or
            with one that is empty, no text, or not UTF-8; an id that is empty, or neither text
            nor a whole number; each is named by its line.
    """
    pairs = [
        TextPair(
            query=row_text(where, row, "query", required=True),
            document=row_text(where, row, "document", required=True),
            task=row_text(where, row, "task_type") or "",
            query_id=_id(where, row, "query_id"),
            document_id=_id(where, row, "document_id"),
            where=where,
        )
        for where, row in read_tables(_files(user_path(path)), header=COLUMNS[:2], columns=COLUMNS)
    ]
    if not pairs:
        hint = "write a row a pair: `query`, `document`, `task_type`"
        raise MrlError("has no pairs", where=path, hint=hint)
    return pairs


@checked
def pairs_digest(pairs: Sequence[TextPair]) -> str:
    """SHA-256 of what is trained on; ids count where there are any."""
    total = hashlib.sha256()
    for pair in pairs:
        total.update("\0".join((pair.query, pair.document, pair.task, "")).encode())
        for name in ("query_id", "document_id"):
            if (value := getattr(pair, name)) is not None:
                total.update(f"{name}\0{value}\0".encode())
    return total.hexdigest()


def _id(where: str, row: Mapping[str, Any], key: str) -> str | None:
    return None if row.get(key) is None else row_id(where, row, key)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise MrlError("no such file", where=path, hint="check data.train")
        return [path]
    shards = table_shards(path, "train")
    if not shards:
        raise MrlError("has no Parquet files", where=path, hint="name a file, or another folder")
    return shards
