"""Retrieval sets on disk: queries, corpus and relevance judgements, checked as they are read.

A set is a folder with three tables: `queries` (`_id`, `audio` or `text`, and optionally
`task`, `prompt`, `speaker`, `transcript`), `corpus` (`_id`, `text`, and optionally `title`,
which is then put before the text, as in BEIR) and `qrels` (`query-id`,
`corpus-id`, optionally `score`). Each is NAME.jsonl, NAME.parquet or a folder NAME/ of
parquet files as the Hugging Face hub has them; qrels may also be qrels.tsv, qrels/test.tsv
as in BEIR, or data/ where they are the hub's default table. Of qrels in several splits the
test split counts.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import write_text
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.decode import load_audio_of
from mrl_jax.data.sets import tables
from mrl_jax.data.text.prompts import check_one_prompt

MAX_SCORE = 1_000_000
"""The highest grade of a judgement: far above any in use, far below what counts overflow at."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """Queries, a corpus, and which documents answer which query.

    Attributes:
        qrels: query id → document id → score; 0 is not relevant, more is better. Only
            queries with at least one judgement are in it.
    """

    queries: tuple[Query, ...]
    corpus: tuple[Document, ...]
    qrels: Mapping[str, Mapping[str, int]]

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The ids of the queries without any relevant document: no metric counts them."""
        return tuple(q.id for q in self.queries if not any(self.qrels.get(q.id, {}).values()))

    def judged_only(self) -> "RetrievalSet":
        """The set without those queries, whose recordings then need not be read."""
        left_out = set(self.unjudged)
        judged = tuple(query for query in self.queries if query.id not in left_out)
        return dataclasses.replace(self, queries=judged)


def read_retrieval_set(folder: str | Path) -> RetrievalSet:
    """Read a retrieval set and check its three tables against each other.

    Args:
        folder: where the tables are; paths of recordings are absolute or relative to it.

    Raises:
        MrlError: a table is missing, empty, there twice or malformed; an id is repeated; a
            text is empty; a recording is missing; a judgement names an unknown id, or is
            not a whole number from 0 to `MAX_SCORE`; no query has a relevant document;
            pyarrow is absent.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        kind = "is a file, expected the folder of" if folder.exists() else "no such folder, for"
        raise MrlError(f"{kind} a retrieval set", where=folder, hint="check the path")
    queries = tuple(_query(where, row, folder) for where, row in _read_table(folder, "queries"))
    corpus = tuple(
        Document(id=tables.row_id(where, row, "_id"), text=_document_text(where, row))
        for where, row in _read_table(folder, "corpus")
    )
    for name, rows in (("queries", queries), ("corpus", corpus)):
        seen: set[str] = set()
        repeated = [row.id for row in rows if row.id in seen or seen.add(row.id)]
        tables.refuse(repeated, f"{name} repeats `_id`s", folder)
    absent = "queries name recordings that do not exist"
    tables.check_files((query.audio for query in queries), absent, folder)
    qrels = _qrels(folder, {q.id for q in queries}, {d.id for d in corpus})
    return RetrievalSet(queries=queries, corpus=corpus, qrels=qrels)


def with_task_or_prompt(
    data: RetrievalSet, *, task: str | None = None, prompt: str | None = None
) -> RetrievalSet:
    """The same set, with one task or one prompt (both are an `MrlError`) for all its queries."""
    check_one_prompt(task, prompt, "--task and --prompt")
    if task is None and prompt is None:
        return data
    queries = tuple(dataclasses.replace(q, task=task, prompt=prompt) for q in data.queries)
    return dataclasses.replace(data, queries=queries)


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
        MrlError: the tables contradict each other (see `read_retrieval_set`), or a query
            holds the bytes of a recording, for which a table of JSON has no place.
    """
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
    return read_retrieval_set(folder)


def read_query_column(folder: str | Path, name: str) -> dict[str, str]:
    """Another column of a set's queries, another recogniser's transcripts for one: id → text.

    Raises:
        MrlError: a query without it (the nearest column is named), or whose text is empty.
    """
    texts: dict[str, str] = {}
    for where, row in _read_table(user_path(folder), "queries"):
        key = tables.row_id(where, row, "_id")
        if name not in row:
            hint = did_you_mean(name, row, otherwise=f"its columns are {', '.join(row)}")
            raise MrlError(f"query {key!r} has no {name!r}", where=where, hint=hint)
        if not isinstance(row[name], str) or not row[name].strip():
            problem = f"the {name!r} of query {key!r} is empty, or no text"
            raise MrlError(problem, where=where, hint="fill it, or leave the query out")
        texts[key] = row[name]
    return texts


def load_query_audio(query: Query, sample_rate: int) -> HostArray:
    """The recording of a spoken query: [S] float32, mono, `sample_rate` samples a second.

    Raises:
        MrlError: the query is written, not spoken; its recording cannot be decoded.
    """
    return load_audio_of(f"query {query.id!r}", query.audio, sample_rate)


def load_queries(
    queries: Sequence[Query], sample_rate: int
) -> tuple[list[HostArray], list[str], list[str | None], list[str]]:
    """Clips, tasks, prompts and names of spoken queries; a broken recording is fatal."""
    clips = [load_query_audio(query, sample_rate) for query in queries]
    tasks, prompts = [query.task or "" for query in queries], [query.prompt for query in queries]
    return clips, tasks, prompts, [f"query {query.id}" for query in queries]


def _query(where: str, row: Mapping[str, Any], folder: Path) -> Query:
    key = tables.row_id(where, row, "_id")
    named = f"{where}, query {key!r}"
    query = Query(
        id=key,
        audio=tables.row_audio(where, row.get("audio"), folder),
        text=tables.row_text(named, row, "text"),
        task=tables.row_text(named, row, "task"),
        prompt=tables.row_text(named, row, "prompt"),
        speaker=tables.row_id(where, row, "speaker") if row.get("speaker") is not None else None,
        transcript=tables.row_text(named, row, "transcript"),
    )
    if query.audio is None and query.text is None:
        hint = f"give query {query.id!r} one of them"
        raise MrlError("has neither `audio` nor `text`", where=where, hint=hint)
    return query


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


def _qrels(folder: Path, queries: set[str], documents: set[str]) -> Mapping[str, Mapping[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for where, row in _read_table(folder, "qrels"):
        query, document = (tables.row_id(where, row, f"{kind}-id") for kind in ("query", "corpus"))
        scores = qrels.setdefault(query, {})
        if document in scores:
            problem = f"judges query {query!r} and document {document!r} a second time"
            raise MrlError(problem, where=where, hint="keep one of the two lines")
        scores[document] = _score(where, row.get("score", 1))
    judged = dict.fromkeys(document for scores in qrels.values() for document in scores)
    for kind, table, ids in (
        ("query", "queries", [key for key in qrels if key not in queries]),
        ("corpus", "corpus", [key for key in judged if key not in documents]),
    ):
        tables.refuse(ids, f"qrels names {kind}-ids that {table} does not have", folder)
    if not any(score for scores in qrels.values() for score in scores.values()):
        problem, hint = "no query has a relevant document", "give some judgement a score above 0"
        raise MrlError(problem, where=folder / "qrels", hint=hint)
    return MappingProxyType({query: MappingProxyType(scores) for query, scores in qrels.items()})


def _score(where: str, value: Any) -> int:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (0 <= number <= MAX_SCORE and number.is_integer()):
        problem = f"`score` is {value!r}, expected a whole number from 0 to {MAX_SCORE:,}"
        hint = "0 is not relevant, 1 relevant, and more is better"
        raise MrlError(problem, where=where, hint=hint)
    return int(number)


def _document_text(where: str, row: Mapping[str, Any]) -> str:
    """Title and text with a space between, either alone where the other is empty."""
    title = row.get("title")
    if title in (None, ""):
        return tables.row_text(where, row, "text", required=True)
    title = tables.row_text(where, row, "title", required=True)
    if "text" in row and row["text"] in (None, ""):
        return title
    return f"{title} {tables.row_text(where, row, 'text', required=True)}"


def _read_table(folder: Path, name: str) -> Iterator[tables.Row]:
    """Every row of a table, from whichever of its forms is there."""
    names = [f"{name}.jsonl", f"{name}.parquet"]
    if name == "qrels":
        names += ["qrels.tsv", "qrels/test.tsv"]
    forms = [[folder / form] for form in names if (folder / form).is_file()]
    shards = tables.parquet_shards(folder / name, "test" if name == "qrels" else None)
    if not forms and not shards and name == "qrels":
        shards = tables.parquet_shards(folder / "data", "test")
    if shards:
        forms.append(shards)
    if not forms:
        problem = f"has no table `{name}` (none of {', '.join(names)}, {name}/*.parquet)"
        raise MrlError(problem, where=folder, hint="a set has queries, corpus and qrels")
    if len(forms) > 1:
        both = " and ".join(str(files[0].relative_to(folder)) for files in forms)
        raise MrlError(f"has the table `{name}` twice: {both}", where=folder, hint="keep one")
    header = ("query-id", "corpus-id") if name == "qrels" else ()
    rows = (row for file in forms[0] for row in tables.read_rows(file, header=header))
    first = next(rows, None)
    if first is None:
        raise MrlError(f"the table `{name}` is empty", where=forms[0][0], hint="add rows to it")
    yield from itertools.chain((first,), rows)


def _write_table(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
