"""Training manifests: JSON Lines, one recording and its document a line."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.core.paths import joined_path, user_path
from mrl_jax.core.remote import fetch_files
from mrl_jax.core.text import check_text
from mrl_jax.data.sets.tables import as_name, check_new_id, read_jsonl

QUOTES = "put it in quotes"
REQUIRED = ("id", "audio", "text")
OPTIONAL = ("task", "transcript", "language", "speaker", "document_id", "split")
_NAMES = ("id", "speaker", "document_id")
"""Keys that may be numbers in the file: they are names, and become strings."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedAudio:
    """A recording inside a table.

    Attributes:
        file, row: the Parquet or Arrow file, and its row, counted from 0.
        path: the recording instead, where the row turns out to hold none.
    """

    file: Path
    row: int
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.file}, row {self.row + 1}"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One recording and the document that answers it.

    Attributes:
        id: unique in its manifest.
        audio: the recording, as a file or as the row of a table.
        text: the document, as it was written.
        task: the name of a task in the training config; "" is no task.
        transcript, language, speaker: of the recording.
        document_id: the identity of the document; without one that is its text.
        split: "train", "test" or another word of letters, digits and `_`.
        weight: how often it is drawn in training, relative to the others of its split; above 0.
    """

    id: str
    audio: Path | EmbeddedAudio
    text: str
    task: str = ""
    transcript: str | None = None
    language: str | None = None
    speaker: str | None = None
    document_id: str | None = None
    split: str = "train"
    weight: float = 1.0

    @property
    def document(self) -> str:
        """The identity of the document: equal ones are never each other's negatives."""
        return self.text if self.document_id is None else self.document_id


@checked
def read_manifest(path: str | Path) -> list[Example]:
    """Read a manifest whole; recordings are neither opened nor looked for, but fetched.

    Lines are JSON objects in UTF-8 with the keys `id`, `audio` (relative to the manifest,
    absolute, or an address) and `text`, and optionally those of `Example`. Other keys are ignored,
    `null` is an absent key, and blank lines are skipped.

    Raises:
        MrlError: no such file, or nothing in it; a line that is not a JSON object; a key
            that is absent, empty or of the wrong type; two lines with one id.
    """
    path = existing_file(user_path(path), hint="check the path of the manifest")
    examples: list[Example] = []
    places: dict[str, str] = {}
    for where, row in read_jsonl(path):
        fields = check_fields(row, where)
        check_new_id(places, fields["id"], where)
        audio = joined_path(path.parent, fields.pop("audio"))
        weight = _check_weight(row.get("weight"), where)
        examples.append(Example(audio=audio, weight=weight, **fields))
    if not examples:
        hint = f"expected a JSON object a line, with the keys {', '.join(REQUIRED)}"
        raise MrlError("the manifest is empty", where=path, hint=hint)
    fetch_files(one.audio for one in examples if isinstance(one.audio, Path))
    return examples


def check_fields(
    row: dict[str, Any], where: str, *, hint: Callable[[str], str] = lambda key: QUOTES
) -> dict[str, Any]:
    """The known fields of a manifest's row as strings, absent ones left out.

    Args:
        row: by the names of the fields.
        where: file and line.
        hint: from a field that is no text to what is done about it.

    Raises:
        MrlError: a required key is absent; a value is empty or not a string; the split has
            no usable name.
    """
    absent = [key for key in REQUIRED if row.get(key) is None]
    if absent:
        keys = ", ".join(map(repr, row)) or "none"
        raise MrlError(
            f"no {' and no '.join(map(repr, absent))}; the keys there are: {keys}"
            + (" (with null)" if any(key in row for key in absent) else ""),
            where=where,
            hint=f"each example needs {', '.join(REQUIRED)}",
        )
    fields = {key: row[key] for key in REQUIRED + OPTIONAL if row.get(key) is not None}
    for key, value in fields.items():
        if key in _NAMES:
            fields[key] = value = as_name(value)
        if not isinstance(value, str):
            kind = f"of type {type(value).__name__}, expected a string"
            problem = f"{key!r} is {value!r:.60}, {kind}"
            raise MrlError(problem, where=where, hint=hint(key))
        if not value.strip() and key not in ("task", "transcript"):
            raise MrlError(f"{key!r} is empty", where=where, hint="fill it, or leave the row out")
        check_text(value, repr(key), where=where)
    split = fields.get("split", "train")
    if not re.fullmatch(r"[A-Za-z0-9_]+", split) or split == "all":
        letters = "use letters, digits and `_`, and not `all`"
        raise MrlError(f"the split {split!r} is not a usable name", where=where, hint=letters)
    return fields


def _check_weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        problem = f"'weight' is {value!r:.60}, expected a number above 0"
        raise MrlError(problem, where=where, hint="leave the row out if it is not to be drawn")
    return float(value)
