"""A corpus to be searched: documents from tables, retrieval sets and text files.

Columns of a table are `_id` or `id`, `text`, `title`; all others become fields of a document. Rows
without an id are numbered.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mrl_jax.core.errors import NO_FILE, MrlError, file_problem
from mrl_jax.core.paths import user_path
from mrl_jax.core.text import check_text
from mrl_jax.data.sets import tables
from mrl_jax.data.sets.issues import IssueLog
from mrl_jax.data.sets.set_tables import set_rows
from mrl_jax.data.text.paragraphs import passages_of

TEXT_ENDINGS = (".txt", ".md")
WITHOUT_TEXT = "documents without text, left out"
_OWN = ("_id", "id", "text", "title", "span")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusDocument:
    """One text to be found.

    Attributes:
        id: its name, of which a corpus has no two alike.
        text: what is returned.
        title: put before the text when it is embedded, as in BEIR.
        span: of a passage, its first character in its file, and the one behind its last.
        fields: what else is known of it, values of JSON: to filter by.
    """

    id: str
    text: str
    title: str | None = None
    span: tuple[int, int] | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "text"):
            value = getattr(self, name)
            if not value.strip():
                where = f"document {self.id!r}"
                raise MrlError(f"the {name} is empty", where=where, hint="leave it out")
            check_text(value, f"the {name}", where=f"document {self.id!r}")
        if self.title is not None:
            check_text(self.title, "the title", where=f"document {self.id!r}")

    @property
    def embedded_text(self) -> str:
        """Title and text with a space between."""
        return f"{self.title} {self.text}" if self.title else self.text


def read_corpus(source: str | Path, *, log: IssueLog | None = None) -> Iterator[CorpusDocument]:
    """The documents of a corpus, one after the other.

    Args:
        source: a table (.jsonl, .parquet, .tsv, .csv), a text file (.txt, .md), or a folder: a
            retrieval set, of Parquet files, or of text files, also in folders below it. Text files
            are cut into paragraphs.
        log: gets the documents without text, which are left out.

    Raises:
        MrlError: no such file, or of another kind; a table or a row that cannot be read; a text
            that is not UTF-8; two documents of one id; no document at all.
    """
    source = user_path(source)
    log = IssueLog() if log is None else log
    places: dict[str, str] = {}
    for where, document in _documents(source, log):
        tables.check_new_id(places, document.id, where, hint="give each document its own id")
        yield document
    if not places:
        raise MrlError("holds no document with text", where=source, hint="check the corpus")


def as_document(value: Any, number: int) -> CorpusDocument:
    """A document from what a program has: itself, the columns of one, or its text.

    Args:
        value: a document, a mapping, or a text, which is named by its number.
        number: of the document, from 0.

    Raises:
        MrlError: it has no text, or what UTF-8 cannot hold.
    """
    if isinstance(value, CorpusDocument):
        return value
    where = f"document {number}"
    row = {"text": value} if isinstance(value, str) else value
    if not isinstance(row, Mapping):
        hint = "pass texts, mappings with `id` and `text`, or `CorpusDocument`s"
        raise MrlError(f"is {value!r:.40}, expected a document", where=where, hint=hint)
    document = _of_row(where, row, str(number))
    if document is None:
        raise MrlError("has no text", where=where, hint="leave it out")
    return document


def _documents(source: Path, log: IssueLog) -> Iterator[tuple[str, CorpusDocument]]:
    if source.is_dir():
        yield from _of_folder(source, log)
    elif problem := file_problem(source):
        problem = "no such file or folder" if problem == NO_FILE else problem
        raise MrlError(problem, where=source, hint="check the path")
    elif source.suffix in TEXT_ENDINGS:
        yield from _of_text(source, source.name)
    elif source.suffix in (*tables.ENDINGS, ".arrow"):
        yield from _of_rows(tables.read_rows(source), source.stem, log)
    else:
        known = ", ".join((*tables.ENDINGS, *TEXT_ENDINGS))
        problem = f"is of the kind {source.suffix or 'without an ending'}, expected {known}"
        raise MrlError(problem, where=source, hint="give a table, a text file or a folder")


def _of_folder(folder: Path, log: IssueLog) -> Iterator[tuple[str, CorpusDocument]]:
    files = [path for path in folder.iterdir() if path.stem == "corpus"]
    if any(path.is_dir() or path.suffix in tables.ENDINGS for path in files):
        yield from _of_rows(set_rows(folder, "corpus", log=log), "corpus", log)
        return
    if shards := tables.table_shards(folder) or tables.table_shards(folder / "data"):
        yield from _of_rows(tables.read_tables(shards), folder.name, log)
        return
    texts = sorted(path for path in folder.rglob("*") if path.suffix in TEXT_ENDINGS)
    texts = [path for path in texts if path.is_file() and not is_hidden(path, folder)]
    if not texts:
        hint = "pass a retrieval set, a folder of text files, or a table"
        problem = f"holds no table `corpus`, no Parquet file and no {' or '.join(TEXT_ENDINGS)}"
        raise MrlError(problem, where=folder, hint=hint)
    for path in texts:
        yield from _of_text(path, path.relative_to(folder).as_posix())


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path below a folder, or a folder on the way, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _of_text(path: Path, name: str) -> Iterator[tuple[str, CorpusDocument]]:
    """The paragraphs of a text file, called `name#1` and so on."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} is not UTF-8"
        raise MrlError(problem, where=path, hint="save it as UTF-8") from error
    for number, passage in enumerate(passages_of(text), 1):
        yield (
            f"{path}, paragraph {number}",
            CorpusDocument(
                id=f"{name}#{number}",
                text=passage.text,
                title=passage.title,
                span=passage.span,
                fields=MappingProxyType({"file": name}),
            ),
        )


def _of_rows(
    rows: Iterable[tables.Row], name: str, log: IssueLog
) -> Iterator[tuple[str, CorpusDocument]]:
    empty = []
    for number, (where, row) in enumerate(rows):
        document = _of_row(where, row, f"{name}-{number}")
        if document is None:
            empty.append(where)
        else:
            yield where, document
    log.add(WITHOUT_TEXT, empty)


def _of_row(where: str, row: Mapping[str, Any], name: str) -> CorpusDocument | None:
    """The document of a row; None where it has no text."""
    if "text" not in row and "title" not in row:
        tables.row_text(where, row, "text", required=True)
    held = tables.filled_cells(row)
    key = next((key for key in ("_id", "id") if key in held), None)
    title, text = (tables.row_text(where, held, column) for column in ("title", "text"))
    if text is None:
        title, text = None, title
    if text is None:
        return None
    return CorpusDocument(
        id=tables.row_id(where, held, key) if key else name,
        text=text,
        title=title,
        span=_span(where, held.get("span")),
        fields={key: value for key, value in held.items() if key not in _OWN and _is_json(value)},
    )


def _span(where: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = list(value) if isinstance(value, list | tuple) else []
    if len(pair) != 2 or not all(type(n) is int for n in pair) or not 0 <= pair[0] <= pair[1]:
        problem = (
            f"`span` is {value!r:.40}, expected the first character and the one behind the last"
        )
        raise MrlError(problem, where=where, hint="write two whole numbers, or leave it out")
    return pair[0], pair[1]


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True
