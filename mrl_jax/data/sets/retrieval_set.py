"""Retrieval sets on disk: queries, corpus and relevance judgements, checked as they are read.

A set is a folder with three tables: `queries` (`_id`, `audio` or `text`, and optionally
`task`, `prompt`, `speaker`, `transcript`), `corpus` (`_id`, `text`, and optionally `title`,
which is then put before the text, as in BEIR) and `qrels` (`query-id`,
`corpus-id`, optionally `score`). Each is NAME.jsonl, .parquet, .tsv or .csv, or a folder NAME/
of such files, as BEIR and the Hugging Face hub have them; qrels may also be in data/, where
they are the hub's default table. Of qrels in several splits the test split counts.

What published sets have wrong, and nobody can edit, is counted in `RetrievalSet.issues`.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_folder
from mrl_jax.core.files import write_text
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.decode import load_audio_of, load_each
from mrl_jax.data.sets import tables
from mrl_jax.data.sets.issues import Issue, IssueLog, refuse_issues
from mrl_jax.data.sets.qrels import Qrels, read_qrels
from mrl_jax.data.sets.set_tables import set_rows
from mrl_jax.data.text.prompts import check_one_prompt

TABLE_OF = {"query": "queries", "corpus": "corpus"}
"""By the first word of the columns of `qrels`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """A query, spoken or written.

    Attributes:
        audio: a recording on disk, or the bytes of one; None where the query is written.
        task: a task of the model, whose prompt is put before the query.
        prompt: or the prompt itself, word for word.
        transcript: of the recording, where it is known.
    """

    id: str
    audio: Path | bytes | None = None
    text: str | None = None
    task: str | None = None
    prompt: str | None = None
    speaker: str | None = None
    transcript: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """One text of the corpus."""

    id: str
    text: str


Row = TypeVar("Row", Query, Document)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """Queries, a corpus, and which documents answer which query.

    Attributes:
        qrels: query id → document id → score; 0 is not relevant, more is better. Only
            queries with at least one judgement are in it. Judged documents may be absent
            from the corpus: nothing retrieves them, and they count among the relevant ones.
        issues: what is wrong with the set as it was read.
    """

    queries: tuple[Query, ...]
    corpus: tuple[Document, ...]
    qrels: Qrels
    issues: tuple[Issue, ...] = dataclasses.field(default=(), compare=False)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The ids of the queries without any relevant document: no metric counts them."""
        return tuple(q.id for q in self.queries if not any(self.qrels.get(q.id, {}).values()))

    def judged_only(self) -> "RetrievalSet":
        """The set without those queries, whose recordings then need not be read."""
        left_out = set(self.unjudged)
        judged = tuple(query for query in self.queries if query.id not in left_out)
        return dataclasses.replace(self, queries=judged)


@checked
def read_retrieval_set(
    folder: str | Path, *, strict: bool = False, split: str | None = None
) -> RetrievalSet:
    """Read a retrieval set and check its three tables against each other.

    Documents without text stay, as texts without words; queries with neither audio nor text
    are left out, and of rows that are there twice one is. These, and judgements of queries or
    documents that are not there, are counted in `RetrievalSet.issues`.

    Args:
        folder: where the tables are; paths of recordings are absolute or relative to it.
        strict: refuse a set with issues that are not harmless.
        split: of the judgements; by default the test split, or the only one.

    Raises:
        MrlError: a table is missing, empty, there twice or malformed; an id has two contents;
            a recording is missing; a judgement is not a whole number up to `MAX_SCORE`; no
            query has a relevant document; pyarrow is absent.
    """
    folder = existing_folder(user_path(folder), "a retrieval set", hint="check the path")
    log = IssueLog()
    queries, empty = _queries(folder, log)
    corpus = _unique(
        (
            Document(id=tables.row_id(where, row, "_id"), text=_document_text(where, row))
            for where, row in set_rows(folder, "corpus", log=log)
        ),
        *("corpus", folder, log),
    )
    log.add("documents without text", [document.id for document in corpus if not document.text])
    absent = "queries name recordings that do not exist"
    tables.check_files((query.audio for query in queries), absent, folder)
    known = {*(query.id for query in queries), *empty}
    qrels = read_qrels(folder, known, {d.id for d in corpus}, log=log, split=split)
    qrels = {key: scores for key, scores in qrels.items() if key not in empty}
    data = RetrievalSet(queries=queries, corpus=corpus, qrels=MappingProxyType(qrels))
    log.add("queries without a relevant document, which no score counts", data.unjudged)
    if strict:
        refuse_issues(log.issues, folder)
    return dataclasses.replace(data, issues=log.issues)


@checked
def with_task_or_prompt(
    data: RetrievalSet, *, task: str | None = None, prompt: str | None = None
) -> RetrievalSet:
    """The same set, with one task or one prompt (both are an `MrlError`) for all its queries."""
    check_one_prompt(task, prompt, "--task and --prompt")
    if task is None and prompt is None:
        return data
    queries = tuple(dataclasses.replace(q, task=task, prompt=prompt) for q in data.queries)
    return dataclasses.replace(data, queries=queries)


@checked
def write_retrieval_set(
    folder: str | Path,
    queries: Iterable[Query],
    corpus: Iterable[Document],
    qrels: Mapping[str, Mapping[str, int]],
) -> RetrievalSet:
    """Write the three tables as JSON Lines, and read them back.

    Recordings stay where they are: a path inside `folder` is written relative to it, any
    other as absolute.

    Raises:
        MrlError: the tables contradict each other (see `read_retrieval_set`); a judgement names
            a query or document that is not there; a query holds the bytes of a recording, for
            which a table of JSON has no place.
    """
    queries, corpus = list(queries), list(corpus)
    folder = user_path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(folder / "queries.jsonl", (_query_row(query, folder) for query in queries))
    _write_table(folder / "corpus.jsonl", ({"_id": d.id, "text": d.text} for d in corpus))
    judged = (
        {"query-id": query, "corpus-id": document, "score": score}
        for query, scores in qrels.items()
        for document, score in scores.items()
    )
    _write_table(folder / "qrels.jsonl", judged)
    for kind, named, rows in (
        ("query", qrels, queries),
        ("corpus", {key for scores in qrels.values() for key in scores}, corpus),
    ):
        known = {row.id for row in rows}
        problem = f"qrels names {kind}-ids that {TABLE_OF[kind]} does not have"
        tables.refuse([key for key in named if key not in known], problem, folder)
    return read_retrieval_set(folder)


@checked
def read_query_column(folder: str | Path, name: str) -> dict[str, str]:
    """Another column of a set's queries, another recogniser's transcripts for one: id → text.

    Raises:
        MrlError: a query without it (the nearest column is named), or whose text is empty.
    """
    texts: dict[str, str] = {}
    for where, row in set_rows(user_path(folder), "queries"):
        key = tables.row_id(where, row, "_id")
        if name not in row:
            hint = did_you_mean(name, row, otherwise=f"its columns are {', '.join(row)}")
            raise MrlError(f"query {key!r} has no {name!r}", where=where, hint=hint)
        if not isinstance(row[name], str) or not row[name].strip():
            problem = f"the {name!r} of query {key!r} is empty, or no text"
            raise MrlError(problem, where=where, hint="fill it, or leave the query out")
        texts[key] = tables.row_text(f"{where}, query {key!r}", row, name)
    return texts


@checked
def load_query_audio(query: Query, sample_rate: int) -> HostArray:
    """The recording of a spoken query: [S] float32, mono, `sample_rate` samples a second.

    Raises:
        MrlError: the query is written, not spoken; its recording cannot be decoded.
    """
    return load_audio_of(f"query {query.id!r}", query.audio, sample_rate)


def load_query_clips(queries: Sequence[Query], sample_rate: int) -> list[HostArray]:
    """`load_query_audio` of each; the error counts all that are broken."""
    return load_each(lambda query: load_query_audio(query, sample_rate), queries)


@checked
def load_queries(
    queries: Sequence[Query], sample_rate: int
) -> tuple[list[HostArray], list[str], list[str | None], list[str]]:
    """Clips, tasks, prompts and names of spoken queries; broken recordings are fatal."""
    clips = load_query_clips(queries, sample_rate)
    tasks, prompts = [query.task or "" for query in queries], [query.prompt for query in queries]
    return clips, tasks, prompts, [f"query {query.id}" for query in queries]


def _queries(folder: Path, log: IssueLog) -> tuple[tuple[Query, ...], set[str]]:
    """The queries, and the ids of those that have neither audio nor text."""
    queries: list[Query] = []
    empty: dict[str, None] = {}
    for where, row in set_rows(folder, "queries", log=log):
        query = _query(where, row, folder)
        if query.audio is None and query.text is None:
            if "audio" not in row and "text" not in row:
                hint = f"give query {query.id!r} one of them"
                raise MrlError("has neither `audio` nor `text`", where=where, hint=hint)
            empty[query.id] = None
            continue
        queries.append(query)
    log.add("queries with neither audio nor text, left out", empty)
    if not queries:
        problem = "no query has audio or text"
        raise MrlError(problem, where=folder / "queries", hint="fill one of the two columns")
    unique = _unique(queries, "queries", folder, log)
    tables.refuse([q.id for q in unique if q.id in empty], "queries repeats `_id`s", folder)
    return unique, set(empty)


def _unique(rows: Iterable[Row], name: str, folder: Path, log: IssueLog) -> tuple[Row, ...]:
    """Each row once. Raises an `MrlError` where two different ones have the same id."""
    first: dict[str, Row] = {}
    repeated, different = [], []
    for row in rows:
        before = first.setdefault(row.id, row)
        if before is not row:
            (repeated if before == row else different).append(row.id)
    tables.refuse(different, f"{name} repeats `_id`s", folder)
    log.add(f"rows of {name} that are there twice", repeated)
    return tuple(first.values())


def _query(where: str, row: Mapping[str, Any], folder: Path) -> Query:
    key = tables.row_id(where, row, "_id")
    named, held = f"{where}, query {key!r}", tables.filled_cells(row)
    speaker = held.get("speaker") is not None
    return Query(
        id=key,
        audio=tables.row_audio(where, held.get("audio"), folder),
        text=tables.row_text(named, held, "text"),
        task=tables.row_text(named, held, "task"),
        prompt=tables.row_text(named, held, "prompt"),
        speaker=tables.row_id(where, held, "speaker") if speaker else None,
        transcript=tables.row_text(named, held, "transcript"),
    )


def _query_row(query: Query, folder: Path) -> dict[str, str]:
    row = {k: v for k, v in dataclasses.asdict(query).items() if v is not None}
    row = {"_id": row.pop("id"), **row}
    if isinstance(query.audio, bytes):
        problem, hint = "holds bytes of audio, expected a path", "write them to a file first"
        raise MrlError(problem, where=f"query {query.id!r}", hint=hint)
    if query.audio is not None:
        audio = query.audio.resolve()
        inside = audio.is_relative_to(folder)
        row["audio"] = audio.relative_to(folder).as_posix() if inside else str(audio)
    return row


def _document_text(where: str, row: Mapping[str, Any]) -> str:
    """Title and text with a space between, either alone where the other is empty."""
    if "text" not in row and "title" not in row:
        return tables.row_text(where, row, "text", required=True)
    held = tables.filled_cells(row)
    parts = (tables.row_text(where, held, name) for name in ("title", "text"))
    return " ".join(part for part in parts if part is not None)


def _write_table(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
