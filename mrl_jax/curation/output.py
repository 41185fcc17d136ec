"""What a curation leaves: the clips that were cut, and the tables that training reads.

clips/                  FLAC of every kept clip that is a part of a recording
manifest-SPLIT.jsonl    speech with a document: `mrl-jax build`
clips-SPLIT.jsonl       speech without any text
pairs-SPLIT.jsonl       sentences with translations, without speech: `mrl-jax train`, text stage
texts-SPLIT.jsonl       texts alone: `mrl-jax index`
set-SPLIT/              manifest-SPLIT.jsonl as a retrieval set, but for the training split
rows.jsonl              every row, dropped ones too
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from mrl_jax.core.addresses import shown
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import write_bytes, write_text
from mrl_jax.curation.audio import load_audio
from mrl_jax.curation.held_out import write_sets
from mrl_jax.curation.rows import Row, write_rows
from mrl_jax.curation.stage import RowStage, StageConfig
from mrl_jax.data.audio.encode import flac_bytes, quantize

CLIPS, EXAMPLES = "clips", "examples"
TABLES = ("manifest", "clips", "pairs", "texts")
DEFAULT_SPLIT = "train"
KEY = "output.clip"
STAGES = "stages"
_OURS = ("clips", "card", "examples", "set-*", "rows.jsonl", "card.*", "config.json")
"""What a run writes into its folder besides the tables, and removes where it is no longer true."""
_CLIP = re.compile(r".*-[0-9a-f]{10}\.flac")
"""As `clip_name` gives it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipsConfig(StageConfig):
    """Where clips are written.

    Attributes:
        folder: the folder of the run.
        rate: samples a second.
    """

    name: str = "output"
    folder: str
    rate: int


class WriteClips(RowStage):
    """Writes what was cut out of a recording as a file of its own."""

    measures = (KEY,)

    def __init__(self, config: ClipsConfig):
        self.name, self.folder, self.rate = config.name, Path(config.folder), config.rate

    def apply(self, row: Row) -> Sequence[Row]:
        if row.audio is None or is_whole(row):
            return [row]
        name = f"{CLIPS}/{clip_name(row, self.rate)}"
        path = self.folder / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, flac_bytes(quantize(load_audio(row, self.rate)), self.rate))
        return [row.with_measured(self.name, clip=name)]

    def is_intact(self, rows: Sequence[Row]) -> bool:
        names = (str(row.measured[KEY]) for row in rows if KEY in row.measured)
        return all((self.folder / name).is_file() for name in names)


def is_whole(row: Row) -> bool:
    """Whether the clip is the recording as it is."""
    return row.start == 0 and row.end is None


def clip_name(row: Row, rate: int) -> str:
    """The file of a clip: its id in the signs that file names have, and a digest of the cut."""
    slug = re.sub(r"[^\w.-]+", "_", row.id)[-50:]
    cut = [row.id, row.measured.get("source.digest"), row.start, row.end, rate]
    return f"{slug}-{hashlib.sha256(json.dumps(cut).encode()).hexdigest()[:10]}.flac"


def check_folder(workdir: Path) -> None:
    """Refuse a folder with files that a run would replace or remove, and that no run made.

    Raises:
        MrlError: there are such files.
    """
    if (workdir / STAGES).is_dir():
        return
    tables = [f"{table}-*.jsonl" for table in TABLES]
    names = {path.name for pattern in (*_OURS, *tables) for path in workdir.glob(pattern)}
    if names:
        problem = f"holds {', '.join(sorted(names))}, which a run would replace, and no run made"
        raise MrlError(problem, where=workdir, hint="choose another --workdir")


def check_recordings(rows: Sequence[Row], workdir: Path) -> None:
    """Refuse recordings among those that a run writes into its folder, and removes from there.

    Raises:
        MrlError: there is one.
    """
    own = tuple(f"{os.path.abspath(workdir / name)}{os.sep}" for name in (CLIPS, EXAMPLES))
    for row in rows:
        if row.audio is not None and row.audio.startswith(own):
            problem = f"{row.id!r} is a clip that a run wrote there"
            raise MrlError(problem, where=row.audio, hint="choose another --workdir")


def write_tables(rows: Sequence[Row], workdir: Path) -> dict[str, int]:
    """Write rows.jsonl and the tables of each split; earlier ones of other splits are removed.

    Returns:
        Rows by the name of their file.
    """
    lines: dict[str, list[str]] = {}
    examples: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.dropped is None and (placed := _placed(row, workdir)) is not None:
            table, fields = placed
            if table == "manifest":
                examples.setdefault(fields["split"], []).append(fields)
            name = f"{table}-{row.split or DEFAULT_SPLIT}.jsonl"
            line = json.dumps(fields, sort_keys=True, ensure_ascii=False)
            lines.setdefault(name, []).append(f"{line}\n")
    for name, own in sorted(lines.items()):
        write_text(workdir / name, "".join(own))
    for table in TABLES:
        for path in workdir.glob(f"{table}-*.jsonl"):
            if path.name not in lines:
                path.unlink()
    _remove_old_clips(rows, workdir)
    write_sets(examples, workdir)
    write_rows(workdir / "rows.jsonl", (_relative(row, workdir) for row in rows))
    return {name: len(own) for name, own in sorted(lines.items())}


def _placed(row: Row, workdir: Path) -> tuple[str, dict[str, Any]] | None:
    """The table that a row belongs to, and its fields there."""
    document = row.text or row.transcript
    if row.audio is None:
        if row.text is None and row.transcript is None:
            return None
        if row.text is not None and row.transcript is not None:
            pair = {"query": row.transcript, "document": row.text, "document_id": row.document_id}
            return "pairs", _filled(pair)
        return "texts", _filled({"id": row.id, "text": document})
    fields = {
        "id": row.id,
        "audio": str(row.measured[KEY]) if KEY in row.measured else _path(row.audio, workdir),
        "text": document,
        "transcript": row.transcript,
        "language": row.language,
        "speaker": row.speaker,
        "document_id": row.document_id,
        "split": row.split or DEFAULT_SPLIT,
        "task": row.task,
        "weight": None if row.weight == 1 else row.weight,
    }
    return ("manifest" if document else "clips"), _filled(fields)


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _relative(row: Row, workdir: Path) -> Row:
    return row if row.audio is None else dataclasses.replace(row, audio=_path(row.audio, workdir))


def _path(audio: str, workdir: Path) -> str:
    """A path inside the run's folder from there; any other as it is."""
    own = os.path.abspath(workdir)
    if audio.startswith(f"{own}{os.sep}"):
        return os.path.relpath(audio, own)
    return shown(Path(audio))


def _remove_old_clips(rows: Sequence[Row], workdir: Path) -> None:
    """Clips of an earlier config, which no row names."""
    remove_clips(workdir / CLIPS, {Path(str(row.measured.get(KEY, "."))).name for row in rows})


def remove_clips(folder: Path, keep: Set[str]) -> None:
    """Remove what `clip_name` named in a folder, but for some names."""
    for path in folder.glob("*.flac"):
        if path.name not in keep and _CLIP.fullmatch(path.name):
            path.unlink()
