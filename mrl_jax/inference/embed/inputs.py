"""What a corpus to embed holds: texts, or recordings that are decoded later."""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError, readable
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.decode import DECODABLE
from mrl_jax.data.sets import tables
from mrl_jax.data.sets.corpus import TEXT_ENDINGS, is_hidden, read_corpus
from mrl_jax.data.sets.issues import IssueLog

Modality = Literal["text", "speech"]
AUDIO_ENDINGS = (*(f".{ending}" for ending in DECODABLE), ".aif")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One row to embed.

    Attributes:
        id: its name in the output.
        content: a text; or a recording, a file or the bytes of one. None where a row of
            recordings has none.
    """

    id: str
    content: str | Path | bytes | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """A corpus, which is read anew by each call of `items`.

    Attributes:
        source: file or folder.
        modality: of all items.
        log: gets what was left out, once `count_and_digest` has read it.
    """

    source: Path
    modality: Modality
    log: IssueLog = dataclasses.field(default_factory=IssueLog)

    def items(self, log: IssueLog | None = None) -> Iterator[Item]:
        """All items, in the order of the source.

        Args:
            log: gets what is left out.

        Raises:
            MrlError: a table, row or text that cannot be read; two items of one id; no item.
        """
        if self.modality == "text":
            for document in read_corpus(self.source, log=log):
                yield Item(id=document.id, content=document.embedded_text)
            return
        places: dict[str, str] = {}
        for where, item in _recordings(self.source):
            tables.check_new_id(places, item.id, where, hint="give each recording its own id")
            yield item
        if not places:
            raise MrlError("holds no recording", where=self.source, hint="check the path")

    def count_and_digest(self) -> tuple[int, str]:
        """How many items there are, and a SHA-256 of their ids and contents, see `ItemDigest`."""
        digest = ItemDigest(self.source)
        for _ in digest.of(self.items(self.log)):
            pass
        return digest.count, digest.hexdigest()


class ItemDigest:
    """SHA-256 of the ids and contents of items.

    Of a recording on disk its path, size and time of change stand for its content.

    Args:
        source: of the items; paths are relative to it, as machines may have it at several places.

    Attributes:
        count: items that were added.
    """

    def __init__(self, source: Path):
        self._source, self._total, self.count = source, hashlib.sha256(), 0

    def of(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items, each added when it is taken."""
        for item in items:
            identity = [item.id, _identity(item.content, self._source)]
            self._total.update(json.dumps(identity).encode() + b"\n")
            self.count += 1
            yield item

    def hexdigest(self) -> str:
        """Of those that were taken."""
        return self._total.hexdigest()


@checked
def open_inputs(source: str | Path, modality: Modality | None = None) -> Inputs:
    """A corpus of texts or recordings; which of them is seen from its files by default.

    Args:
        source: of texts, what `read_corpus` takes; of recordings, a folder of them, also in
            folders below it, or a table with the columns `audio` and, if rows have names, `id`.

    Raises:
        MrlError: recordings and texts lie in one folder, and no modality is given.
    """
    source = user_path(source)
    if modality is None:
        modality = "speech" if _holds_recordings(source) else "text"
    return Inputs(source=source, modality=modality)


def _holds_recordings(source: Path) -> bool:
    if source.suffix.lower() in AUDIO_ENDINGS and source.is_file():
        return True
    files = _tables(source)
    if source.is_dir() and not files:
        names = (path.suffix.lower() for path in source.rglob("*"))
        kinds = (*AUDIO_ENDINGS, *TEXT_ENDINGS, *tables.ENDINGS)
        first = {name for name in names if name in kinds}
        if first and first <= set(AUDIO_ENDINGS):
            return True
        if first & set(AUDIO_ENDINGS) and first <= {*AUDIO_ENDINGS, *TEXT_ENDINGS}:
            problem = "holds recordings and texts"
            raise MrlError(problem, where=source, hint="pass --modality speech, or text")
    if not files:
        return False
    _, row = next(iter(tables.read_tables(files)), ("", {}))
    return "audio" in row and "text" not in row


def _tables(source: Path) -> list[Path]:
    if source.is_dir():
        if any(path.stem == "corpus" for path in source.iterdir()):
            return []  # A retrieval set, whose corpus is of texts.
        return tables.table_shards(source) or tables.table_shards(source / "data")
    return [source] if source.suffix in tables.ENDINGS and source.is_file() else []


def _recordings(source: Path) -> Iterator[tuple[str, Item]]:
    if files := _tables(source):
        for number, (where, row) in enumerate(tables.read_tables(files)):
            if "audio" not in row:
                hint = "name the column of the recordings so"
                raise MrlError("has no column `audio`", where=where, hint=hint)
            key = next((key for key in ("_id", "id") if row.get(key) is not None), None)
            name = tables.row_id(where, row, key) if key else f"{source.stem}-{number}"
            audio = tables.row_audio(where, row["audio"], files[0].parent)
            yield where, Item(id=name, content=audio)
    elif source.is_dir():
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source)
            is_clip = path.suffix.lower() in AUDIO_ENDINGS and not path.is_dir()
            if is_clip and not is_hidden(path, source):
                yield str(path), Item(id=readable(name.as_posix()), content=path)
    elif source.suffix.lower() in AUDIO_ENDINGS:
        yield str(source), Item(id=readable(source.name), content=source)
    else:
        kinds = f"a folder of recordings, or a table ({', '.join(tables.ENDINGS)})"
        raise MrlError(f"is not {kinds} of them", where=source, hint="check the path")


def _identity(content: str | Path | bytes | None, source: Path) -> Sequence[str | int | None]:
    if isinstance(content, Path):
        place = os.path.relpath(content, source)
        try:
            status = os.stat(content)
        except OSError:
            return [place]
        return [place, status.st_size, status.st_mtime_ns]
    data = content.encode() if isinstance(content, str) else content
    return [None if data is None else hashlib.sha256(data).hexdigest()]


@checked
def shards_of(items: Iterator[Item], rows: int) -> Iterator[list[Item]]:
    """Lists of `rows` items, the last one shorter."""
    while shard := list(itertools.islice(items, rows)):
        yield shard
