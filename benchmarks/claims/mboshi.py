"""Mboshi speech to French: manifests and retrieval sets from the published corpus."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_jax.data.sets.retrieval_set import Document, Query, write_retrieval_set
from mrl_jax.data.text.normalize import plain_text

VALIDATION = 200
"""Training clips that are kept for validation, and their sentences out of training."""


def write_world(source: Path, out: Path) -> None:
    """train.jsonl, text_pairs.jsonl, validation/ and test/ below `out`.

    Training clips that say a sentence of the test, up to case and punctuation, are left out, and
    so are those that say one of the validation set's.
    """
    rows = [json.loads(line) for line in (source / "table.jsonl").open(encoding="utf-8")]
    test = [row for row in rows if row["split"] == "dev"]
    heard = {plain_text(row["transcript"]) for row in test}
    clean = [
        row
        for row in rows
        if row["split"] == "train" and plain_text(row["transcript"]) not in heard
    ]
    validation = clean[:: max(len(clean) // VALIDATION, 1)][:VALIDATION]
    held = {plain_text(row["transcript"]) for row in validation}
    train = [row for row in clean if plain_text(row["transcript"]) not in held]
    out.mkdir(parents=True, exist_ok=True)
    _write_lines(out / "train.jsonl", [_example(row, source) for row in train])
    pairs = {(plain_text(r["transcript"]), r["text"]): None for r in train}
    _write_lines(out / "text_pairs.jsonl", [{"query": q, "document": d} for q, d in pairs])
    for name, part in (("validation", validation), ("test", test)):
        _write_set(out / name, part, source)


def _example(row: dict[str, Any], source: Path) -> dict[str, Any]:
    return {
        "id": row["id"],
        "audio": str((source / row["audio"]).resolve()),
        "text": row["text"],
        "transcript": plain_text(row["transcript"]),
        "speaker": row["speaker"],
    }


def _write_set(folder: Path, rows: Sequence[dict[str, Any]], source: Path) -> None:
    """Equal French sentences, up to case and punctuation, are one document."""
    documents: dict[str, Document] = {}
    queries, qrels = [], {}
    for row in rows:
        key = plain_text(row["text"])
        document = documents.setdefault(key, Document(id=f"d{len(documents)}", text=row["text"]))
        queries.append(
            Query(
                id=row["id"],
                audio=(source / row["audio"]).resolve(),
                transcript=plain_text(row["transcript"]),
                speaker=row["speaker"],
            )
        )
        qrels[row["id"]] = {document.id: 1}
    write_retrieval_set(folder, queries, list(documents.values()), qrels)


def _write_lines(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
