"""Where rows come from: recordings, manifests, tables, named sets, texts and parallel texts.

A source lists its rows; that a recording can be read is found out by `Probe`, row by row. Ids of
rows and documents begin with the name of the source, so that those of several do not meet.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError, existing_file, readable
from mrl_jax.core.files import staged_folder, write_json
from mrl_jax.core.paths import PathText, user_text
from mrl_jax.core.text import flaw_of
from mrl_jax.curation.config import SourceConfig
from mrl_jax.curation.rows import Row
from mrl_jax.data.audio.decode import DECODABLE
from mrl_jax.data.sets.corpus import is_hidden, read_corpus
from mrl_jax.data.sets.digests import digest_lines
from mrl_jax.data.sets.issues import IssueLog
from mrl_jax.data.sets.manifest import EmbeddedAudio, Example, read_manifest
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.data.sets.parquet import EmbeddedReader, ParquetColumns, read_parquet
from mrl_jax.data.sets.tables import read_rows, row_text

UNDECODABLE = ("m4a", "mp4", "aac", "wma", "webm", "amr", "3gp", "mka", "wv")
"""Endings of recordings that are listed too, to be dropped with a reason."""
_MARKER = "recordings.json"
_STARTS = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"FORM": "aiff", b"ID3": "mp3"}


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingsSource(SourceConfig):
    """Recordings of any length: all below a folder, or one.

    Attributes:
        speaker_folders: each recording's speaker is the name of its folder.
    """

    speaker_folders: bool = False


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestSource(SourceConfig):
    """A manifest as `mrl-jax build` reads it.

    Attributes:
        keep_split: rows keep the split that the manifest says; otherwise the stage `split` gives
            them one.
    """

    keep_split: bool = True


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSource(SourceConfig):
    """A data set of Hugging Face's, in Parquet or as `save_to_disk` writes it.

    Attributes:
        audio, text, transcript, speaker: columns, as of `ParquetColumns`.
        keep_split: as of a manifest.
    """

    audio: str = "audio"
    text: str = "text"
    transcript: str = "transcript"
    speaker: str = "speaker"
    keep_split: bool = True


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedSource(SourceConfig):
    """A retrieval set by name or folder, for example fleurs:wo-fr@FOLDER: its queries, each with
    the first document that answers it.
    """


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSource(SourceConfig):
    """Texts without speech: whatever `mrl-jax index` reads as a corpus."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelSource(SourceConfig):
    """Sentences and their translations, without speech: the first becomes the `transcript` of a
    row, the second its `text`.

    Attributes:
        second: a text file with the translations, line by line; empty where `path` is a table.
        columns: of the table: sentence and translation.
    """

    second: PathText = ""
    columns: tuple[str, str] = ("query", "document")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceRows:
    """What a source lists.

    Attributes:
        rows: in its order.
        files: name, size and time of change of each recording: where one changes, it is read
            again.
        issues: what was left out.
    """

    rows: tuple[Row, ...]
    files: tuple[tuple[str, int, int], ...]
    issues: tuple[str, ...] = ()


def read_source(config: SourceConfig, folder: Path) -> SourceRows:
    """List the rows of a source.

    Args:
        config: one of the classes of this module.
        folder: that gets the recordings that lie in tables.

    Raises:
        MrlError: the source is not there, holds nothing, or is malformed; a named set cannot be
            reached.
    """
    reader = READERS.get(type(config))
    if reader is None:
        known = ", ".join(kind.__name__ for kind in READERS)
        problem = f"{type(config).__name__} is no source's config"
        raise MrlError(problem, hint=f"expected one of {known}")
    log, config = IssueLog(), _fetched(config)
    rows = tuple(_named(row, config) for row in reader(config, folder, log))
    if not rows:
        where = f"source {config.name!r} ({config.path})"
        raise MrlError("holds nothing", where=where, hint="check the path")
    paths = dict.fromkeys(row.audio for row in rows if row.audio is not None)
    issues = tuple(f"{config.name}: {issue}" for issue in log.issues)
    return SourceRows(rows=rows, files=tuple(map(_identity, paths)), issues=issues)


def _fetched(config: SourceConfig) -> SourceConfig:
    """The config with what is at addresses brought here."""
    names = ("path", "second") if isinstance(config, ParallelSource) else ("path",)
    where = f"sources.{config.name}"
    paths = {name: getattr(config, name) for name in names}
    paths = {k: user_text(path, where=f"{where}.{k}") for k, path in paths.items() if path}
    return dataclasses.replace(config, **paths)


def _named(row: Row, config: SourceConfig) -> Row:
    return dataclasses.replace(
        row,
        id=f"{config.name}/{row.id}",
        language=row.language or (config.language if row.audio or row.transcript else None),
        text_language=row.text_language or (config.text_language if row.text else None),
        document_id=None if row.document_id is None else f"{config.name}/{row.document_id}",
        split=row.split or config.split,
    )


def _identity(path: str) -> tuple[str, int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return path, -1, -1
    return path, stat.st_size, stat.st_mtime_ns


def _recordings(config: RecordingsSource, folder: Path, log: IssueLog) -> Iterator[Row]:
    root = Path(config.path)
    if not root.exists():
        raise MrlError("no such file or folder", where=root, hint=f"check sources.{config.name}")
    paths = [root] if root.is_file() else sorted(root.rglob("*"))
    endings = {f".{ending}" for ending in (*DECODABLE, *UNDECODABLE)}
    base = root.parent if root.is_file() else root
    own = _folders_of_run(folder.parent.resolve(), base.resolve())
    for path in paths:
        name = path.relative_to(base)
        if path.suffix.lower() not in endings or is_hidden(path, base) or not path.is_file():
            continue
        if any(path.resolve().is_relative_to(one) for one in own):
            continue
        speaker = path.parent.name if config.speaker_folders and path.parent != base else None
        row = Row(id=readable(name.as_posix()), audio=os.path.abspath(path), speaker=speaker)
        if flaw_of(name.as_posix()) is None:
            yield row
        else:
            row = dataclasses.replace(row, speaker=None)
            yield row.drop("source", "the name of the file is not UTF-8")


def _folders_of_run(workdir: Path, base: Path) -> list[Path]:
    """Folders below a source where the run itself writes recordings."""
    if workdir == base:
        return [workdir / name for name in ("clips", "examples")]
    return [workdir] if workdir.is_relative_to(base) else []


def _manifest(config: ManifestSource, folder: Path, log: IssueLog) -> Iterator[Row]:
    for example in read_manifest(config.path):
        assert isinstance(example.audio, Path)
        yield _of_example(example, example.audio, config.keep_split)


def _table(config: TableSource, folder: Path, log: IssueLog) -> Iterator[Row]:
    columns = ParquetColumns(
        audio=config.audio,
        text=config.text,
        transcript=config.transcript,
        speaker=config.speaker,
    )
    examples = read_parquet(config.path, columns)
    inside = [one for one in examples if isinstance(one.audio, EmbeddedAudio)]
    files = _extracted(inside, folder / config.name, config.audio) if inside else {}
    for example in examples:
        audio = files[example.id] if isinstance(example.audio, EmbeddedAudio) else example.audio
        row = _of_example(example, audio, config.keep_split)
        yield row if audio else row.drop("source", "the row of the table holds no recording")


def _of_example(example: Example, audio: Path | None, keep_split: bool) -> Row:
    return Row(
        id=example.id,
        audio=None if audio is None else os.path.abspath(audio),
        text=example.text or None,
        transcript=example.transcript or None,
        language=example.language,
        speaker=example.speaker,
        document_id=example.document_id,
        split=example.split if keep_split else None,
        task=example.task or None,
        weight=None if example.weight == 1 else example.weight,
    )


def _extracted(examples: list[Example], folder: Path, column: str) -> dict[str, Path | None]:
    """The recordings inside a table as files, by the example's id; written once."""
    places = [one.audio for one in examples if isinstance(one.audio, EmbeddedAudio)]
    tables = [_identity(str(path)) for path in dict.fromkeys(place.file for place in places)]
    names = [[one.id, str(one.audio)] for one in examples]
    final = folder.with_name(f"{folder.name}-{digest_lines([tables, names, column])[:12]}")
    if not (final / _MARKER).is_file():
        reader = EmbeddedReader(column)
        made: dict[str, str | None] = {}
        with staged_folder(final, marker=_MARKER, any_name=True) as staging:
            for number, (example, place) in enumerate(zip(examples, places, strict=True)):
                data = reader.read(place)
                if isinstance(data, bytes):
                    made[example.id] = name = f"{number:06d}.{_ending(data)}"
                    (staging / name).write_bytes(data)
                else:
                    made[example.id] = None if data is None else os.path.abspath(data)
            write_json(staging / _MARKER, made)
    return {name: file and final / file for name, file in _read_marker(final / _MARKER).items()}


def _read_marker(path: Path) -> dict[str, Any]:
    from mrl_jax.core.records import read_object, readable_as

    hint = f"remove {path.parent}"
    with readable_as("the list of a table's recordings", path, hint=hint):
        return read_object(path)


def _ending(data: bytes) -> str:
    return next((kind for start, kind in _STARTS.items() if data.startswith(start)), "mp3")


def _set(config: NamedSource, folder: Path, log: IssueLog) -> Iterator[Row]:
    data = load_retrieval_set(config.path)
    texts = {document.id: document.text for document in data.corpus}
    for query in data.queries:
        scores = data.qrels.get(query.id, {})
        best = [name for name in sorted(scores, key=lambda n: (-scores[n], n)) if name in texts]
        audio = query.audio
        if isinstance(audio, bytes):
            audio = _written(audio, folder / config.name, query.id)
        yield Row(
            id=query.id,
            audio=None if audio is None else os.path.abspath(audio),
            transcript=query.transcript or query.text,
            text=texts[best[0]] if best else None,
            document_id=best[0] if best else None,
            speaker=query.speaker,
            task=query.task or None,
        )


def _written(data: bytes, folder: Path, name: str) -> Path:
    """A recording in memory as a file of its own digest."""
    import hashlib

    from mrl_jax.core.files import write_bytes

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}.{_ending(data)}"
    if not path.exists():
        write_bytes(path, data)
    return path


def _texts(config: TextSource, folder: Path, log: IssueLog) -> Iterator[Row]:
    for document in read_corpus(config.path, log=log):
        yield Row(id=document.id, text=document.text)


def _parallel(config: ParallelSource, folder: Path, log: IssueLog) -> Iterator[Row]:
    if config.second:
        pairs = _aligned_lines(config)
    else:
        first, second = config.columns
        path = existing_file(Path(config.path), hint=f"check sources.{config.name}.path")
        pairs = (
            (row_text(where, row, first), row_text(where, row, second))
            for where, row in read_rows(path, header=config.columns, columns=config.columns)
        )
    empty = []
    for number, (sentence, translation) in enumerate(pairs, 1):
        if sentence and translation:
            yield Row(id=str(number), transcript=sentence, text=translation)
        else:
            empty.append(f"line {number}")
    log.add("pairs with an empty side, left out", empty)


def _aligned_lines(config: ParallelSource) -> Iterator[tuple[str, str]]:
    sides = []
    for name in (config.path, config.second):
        path = existing_file(Path(name), hint=f"check sources.{config.name}")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            problem = f"byte {error.start + 1} is not UTF-8"
            raise MrlError(problem, where=path, hint="save it as UTF-8") from error
        # Not splitlines, which also cuts at signs that stand inside a sentence.
        sides.append([line.strip() for line in text.removesuffix("\n").split("\n")])
    if len(sides[0]) != len(sides[1]):
        problem = f"has {len(sides[1]):,} lines, and {config.path} has {len(sides[0]):,}"
        hint = "the two files are to be aligned line by line"
        raise MrlError(problem, where=config.second, hint=hint)
    yield from zip(*sides, strict=True)


READERS: dict[type[SourceConfig], Callable[[Any, Path, IssueLog], Iterator[Row]]] = {
    RecordingsSource: _recordings,
    ManifestSource: _manifest,
    TableSource: _table,
    NamedSource: _set,
    TextSource: _texts,
    ParallelSource: _parallel,
}
"""The sources that there are, and what lists the rows of each."""
