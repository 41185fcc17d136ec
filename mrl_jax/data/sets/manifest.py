"""Training manifests: JSON Lines, one recording and its document a line."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError, existing_file

REQUIRED = ("id", "audio", "text")


OPTIONAL = ("task", "transcript", "language", "speaker", "document_id", "split")


_NAMES = ("id", "speaker", "document_id")
"""Keys that may be whole numbers in the file: they are names, and become strings."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedAudio:
    """A recording inside a table: the row of a Parquet file."""

    file: Path
    row: int

    def __str__(self) -> str:
        return f"{self.file} row {self.row}"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One recording and the document that it asks for.

    Attributes:
        id: unique in its manifest.
        audio: the recording, as a file or as the row of a table.
        text: the document, as it was written.
        task: the name of a task in the training config; "" is no task.
        transcript: what is said.
        language: of the recording.
        speaker: who speaks.
        document_id: the identity of the document; without one that is its text.
        split: "train", "test" or another word of letters, digits and `_`.
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

    @property
    def document(self) -> str:
        """The identity of the document: equal ones are never each other's negatives."""
        return self.text if self.document_id is None else self.document_id


def read_manifest(path: str | Path) -> list[Example]:
    """Read a manifest whole; recordings are neither opened nor looked for.

    Lines are JSON objects in UTF-8 with the keys `id`, `audio` (relative to the manifest,
    or absolute) and `text`, and optionally those of `Example`. Other keys are ignored,
    `null` is an absent key, and blank lines are skipped.

    Raises:
        MrlError: no such file, or nothing in it; a line that is not a JSON object; a key
            that is absent, empty or of the wrong type; two lines with one id.
    """
    path = existing_file(Path(path), hint="check the path of the manifest")
    examples: list[Example] = []
    lines: dict[str, int] = {}
    with path.open("rb") as file:
        # Bytes, as text mode would also end lines at marks that JSON strings may hold.
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            where = f"{path} line {number}"
            fields = check_fields(_parse(line, where), where)
            first = lines.setdefault(fields["id"], number)
            if first != number:
                raise MrlError(
                    f"the id {fields['id']!r} is that of line {first} as well",
                    where=where,
                    hint="give each example its own id",
                )
            examples.append(Example(**fields | {"audio": path.parent / fields["audio"]}))
    if not examples:
        raise MrlError(
            "the manifest is empty",
            where=path,
            hint=f"expected a JSON object a line, with the keys {', '.join(REQUIRED)}",
        )
    return examples


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise MrlError(
            f"byte {error.start + 1} is not UTF-8", where=where, hint="save the manifest as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise MrlError(
            f"not JSON ({error})", where=where, hint="write one JSON object a line"
        ) from error
    if not isinstance(row, dict):
        raise MrlError(
            f"JSON, but of type {type(row).__name__}, expected an object",
            where=where,
            hint="write one JSON object a line",
        )
    return row


def check_fields(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The known fields of a manifest's row as strings, absent ones left out.

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
        if key in _NAMES and isinstance(value, int) and not isinstance(value, bool):
            fields[key] = value = str(value)
        if not isinstance(value, str):
            raise MrlError(
                f"{key!r} is {repr(value)[:60]}, of type {type(value).__name__}, expected a string",
                where=where,
                hint="put it in quotes",
            )
        if not value.strip() and key not in ("task", "transcript"):
            raise MrlError(f"{key!r} is empty", where=where, hint="fill it, or leave the row out")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise MrlError(f"{key!r} holds half a surrogate pair", where=where, hint="write UTF-8")
    split = fields.get("split", "train")
    if not re.fullmatch(r"[A-Za-z0-9_]+", split) or split == "all":
        raise MrlError(
            f"the split {split!r} is not a usable name",
            where=where,
            hint="use letters, digits and `_`, and not `all`",
        )
    return fields
