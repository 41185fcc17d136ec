"""Mboshi speech to French, from the published corpus: unseen sentences, three speakers."""

from pathlib import Path
from typing import Any

from mrl_jax.data.text.normalize import plain_text

from .files import Clip, Contents, read_table, write_contents

VALIDATION = 200
"""Training recordings that are kept for validation, and their sentences out of training."""


def write_mboshi(source: Path, out: Path, part: str, *, small: bool) -> None:
    """The published dev split is the test."""
    del part
    rows = read_table(source)
    test = [row for row in rows if row["split"] == "dev"]
    others = _without([row for row in rows if row["split"] == "train"], test)
    count = min(VALIDATION // 20 if small else VALIDATION, len(others) // 6)
    validation = others[:: max(len(others) // count, 1)][:count]
    train = _without(others, validation)
    ids = {row["id"] for row in train}
    said = {plain_text(row["transcript"]) for row in (*test, *validation)}
    more = [
        row
        for row in rows
        if row["split"] == "train"
        and row["id"] not in ids
        and plain_text(row["transcript"]) not in said
    ]
    if small:
        train, test, more = train[:40], test[:20], more[:5]
    write_contents(
        out,
        Contents(
            train=[_clip(row, source) for row in train],
            validation=[_clip(row, source) for row in validation],
            test=[_clip(row, source) for row in test],
            # The recogniser does not read translations.
            recogniser=[_clip(row | {"text": row["transcript"]}, source) for row in more],
            rules=[
                "The test is the published dev split; all three speakers are in training too.",
                "Training recordings that say, or are translated by, a sentence of the test or "
                "of validation are left out; the recogniser hears those of which only the "
                "translation is one.",
                "Documents are the French sentences of the queries; equal ones are one document.",
            ],
        ),
    )


def _without(rows: list[dict[str, Any]], kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that share neither transcript nor translation with those kept aside."""
    sentences = {sentence for row in kept for sentence in _sentences(row)}
    return [row for row in rows if not sentences & _sentences(row)]


def _sentences(row: dict[str, Any]) -> set[str]:
    return {plain_text(row["transcript"]), plain_text(row["text"])}


def _clip(row: dict[str, Any], source: Path) -> Clip:
    return Clip(
        id=row["id"],
        audio=(source / row["audio"]).resolve(),
        transcript=plain_text(row["transcript"]),
        text=row["text"],
        speaker=row["speaker"],
    )
