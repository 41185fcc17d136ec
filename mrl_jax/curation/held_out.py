"""Splits that are kept aside, as retrieval sets: what `mrl-jax eval` and validation read.

set-SPLIT/queries.jsonl    the recordings
set-SPLIT/corpus.jsonl     their documents, each once
set-SPLIT/qrels.jsonl      which document answers which recording
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.files import staged_folder, write_text

TRAIN = "train"
QUERIES = "queries.jsonl"


def write_sets(examples: Mapping[str, Sequence[Mapping[str, Any]]], workdir: Path) -> list[str]:
    """Write a set of every split but that of training; earlier ones of other splits are removed.

    Args:
        examples: by split, the rows of its manifest: paths are relative to `workdir`.
        workdir: folder of the run.

    Returns:
        Names of the folders.
    """
    names = []
    for split, rows in sorted(examples.items()):
        if split == TRAIN:
            continue
        names.append(f"set-{split}")
        with staged_folder(workdir / names[-1], marker=QUERIES, overwrite=True) as folder:
            _write_set(folder, rows)
    for old in workdir.glob("set-*"):
        if old.name not in names and (old / QUERIES).is_file():
            shutil.rmtree(old)
    return names


def _write_set(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names: dict[tuple[str, str], str] = {}
    documents: dict[str, str] = {}
    queries, judged = [], []
    for row in rows:
        # Rows are of one document where their texts are the same, whatever its id.
        keys = [(key, row[key]) for key in ("document_id", "text") if key in row]
        name = next((names[key] for key in keys if key in names), f"d{len(documents):06d}")
        documents.setdefault(name, row["text"])
        names |= {key: name for key in keys if key not in names}
        fields = ("transcript", "language", "speaker", "task")
        kept = {key: row[key] for key in fields if key in row}
        audio = row["audio"] if Path(row["audio"]).is_absolute() else f"../{row['audio']}"
        queries.append({"_id": row["id"], "audio": audio, **kept})
        judged.append({"query-id": row["id"], "corpus-id": name, "score": 1})
    corpus = [{"_id": name, "text": text} for name, text in documents.items()]
    for name, table in ((QUERIES, queries), ("corpus.jsonl", corpus), ("qrels.jsonl", judged)):
        write_text(folder / name, _lines(table))


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
