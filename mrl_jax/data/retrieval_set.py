"""Retrieval sets on disk: queries, corpus and relevance judgements, checked as they are read.

A set is a folder with three tables: `queries` (`_id`, `audio` or `text`, and optionally
`task`, `speaker`, `transcript`), `corpus` (`_id`, `text`) and `qrels` (`query-id`,
`corpus-id`, optionally `score`). Each is NAME.jsonl, NAME.parquet or a folder NAME/ of
parquet files as the Hugging Face hub has them; qrels may also be qrels.tsv, or
qrels/test.tsv as in BEIR.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mrl_jax.array_types import HostArray
from mrl_jax.data.audio import decode_clip, load_clip
from mrl_jax.errors import MrlError, first_line

Row = tuple[str, dict[str, Any]]
"""Where a row stands (file and line), and its columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked, aloud or in writing.

    Attributes:
        audio: a recording on disk, or the bytes of one; None where the query is written.
        transcript: the words that are spoken, where they are known.
    """

    id: str
    audio: Path | bytes | None = None
    text: str | None = None
    task: str | None = None
    speaker: str | None = None
    transcript: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """One text of the corpus."""

    id: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """Queries, the corpus they are asked of, and which documents answer which.

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


def read_retrieval_set(folder: str | Path) -> RetrievalSet:
    """Read a retrieval set and hold its three tables against each other.

    Args:
        folder: where the tables are; paths of recordings are absolute or relative to it.

    Raises:
        MrlError: a table is missing, empty, there twice or malformed; an id is repeated; a
            text is empty; a recording is missing; a judgement names an unknown id, or is
            not a whole number ≥ 0; no query has a relevant document; pyarrow is absent.
    """
    folder = Path(folder)
    if not folder.is_dir():
        kind = "is a file, expected the folder of" if folder.exists() else "no such folder, for"
        raise MrlError(f"{kind} a retrieval set", where=folder, mend="check the path")
    queries = tuple(_query(where, row, folder) for where, row in _read_table(folder, "queries"))
    corpus = tuple(
        Document(id=_id(where, row, "_id"), text=_text(where, row, "text", required=True))
        for where, row in _read_table(folder, "corpus")
    )
    for name, ids in (("queries", [q.id for q in queries]), ("corpus", [d.id for d in corpus])):
        seen: set[str] = set()
        repeated = [i for i in ids if i in seen or seen.add(i)]
        _refuse(repeated, f"{name} repeats `_id`s", folder)
    missing = [str(q.audio) for q in queries if isinstance(q.audio, Path) and not q.audio.is_file()]
    _refuse(missing, "queries name recordings that do not exist", folder)
    qrels = _qrels(folder, {q.id for q in queries}, {d.id for d in corpus})
    return RetrievalSet(queries=queries, corpus=corpus, qrels=qrels)


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
    folder = Path(folder).resolve()
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


def load_query_audio(query: Query, sample_rate: int) -> HostArray:
    """The recording of a spoken query, mono.

    Args:
        sample_rate: samples a second of the result.

    Returns:
        [S] float32.

    Raises:
        MrlError: the query is written, not spoken; its recording cannot be decoded.
    """
    if query.audio is None:
        raise MrlError(
            "has no audio, only text",
            where=f"query {query.id!r}",
            mend="embed it as text, or give its recording in the column `audio`",
        )
    if isinstance(query.audio, Path):
        return load_clip(query.audio, sample_rate)
    return decode_clip(query.audio, sample_rate, name=f"audio of query {query.id!r}")


def _query(where: str, row: Mapping[str, Any], folder: Path) -> Query:
    query = Query(
        id=_id(where, row, "_id"),
        audio=_audio(where, row.get("audio"), folder),
        text=_text(where, row, "text"),
        task=_text(where, row, "task"),
        speaker=_id(where, row, "speaker") if row.get("speaker") is not None else None,
        transcript=_text(where, row, "transcript"),
    )
    if query.audio is None and query.text is None:
        mend = f"give query {query.id!r} one of them"
        raise MrlError("has neither `audio` nor `text`", where=where, mend=mend)
    return query


def _query_row(query: Query, folder: Path) -> dict[str, str]:
    row = {k: v for k, v in dataclasses.asdict(query).items() if v is not None}
    row = {"_id": row.pop("id"), **row}
    if isinstance(query.audio, bytes):
        problem, mend = "holds bytes of audio, expected a path", "write them to a file first"
        raise MrlError(problem, where=f"query {query.id!r}", mend=mend)
    if query.audio is not None:
        audio = query.audio.resolve()
        inside = audio.is_relative_to(folder)
        row["audio"] = audio.relative_to(folder).as_posix() if inside else str(audio)
    return row


def _audio(where: str, value: Any, folder: Path) -> Path | bytes | None:
    """A path, or the struct of a Hugging Face audio column: `bytes`, else `path`."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or (isinstance(value, bytes) and value):
        return value
    if isinstance(value, str) and value:
        return folder / value
    problem = f"`audio` is {value!r:.40}, expected a path or a Hugging Face audio column"
    raise MrlError(problem, where=where, mend="give a path, absolute or relative to the folder")


def _qrels(folder: Path, queries: set[str], documents: set[str]) -> Mapping[str, Mapping[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    unknown: dict[str, dict[str, None]] = {"query": {}, "corpus": {}}  # Ordered, without repeats.
    for where, row in _read_table(folder, "qrels"):
        query, document = _id(where, row, "query-id"), _id(where, row, "corpus-id")
        if query not in queries:
            unknown["query"][query] = None
        if document not in documents:
            unknown["corpus"][document] = None
        scores = qrels.setdefault(query, {})
        if document in scores:
            problem = f"judges query {query!r} and document {document!r} a second time"
            raise MrlError(problem, where=where, mend="keep one of the two lines")
        scores[document] = _score(where, row.get("score", 1))
    for kind, ids in unknown.items():
        table = "queries" if kind == "query" else "corpus"
        _refuse(list(ids), f"qrels names {kind}-ids that {table} does not have", folder)
    if not any(score for scores in qrels.values() for score in scores.values()):
        problem, mend = "no query has a relevant document", "give some judgement a score above 0"
        raise MrlError(problem, where=folder / "qrels", mend=mend)
    return MappingProxyType({query: MappingProxyType(scores) for query, scores in qrels.items()})


def _score(where: str, value: Any) -> int:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (number >= 0 and number.is_integer()):
        mend = "0 is not relevant, 1 relevant, and more is better"
        raise MrlError(f"`score` is {value!r}, expected a whole number ≥ 0", where=where, mend=mend)
    return int(number)


def _id(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(where, row, key, required=True)


def _text(where: str, row: Mapping[str, Any], key: str, *, required: bool = False) -> Any:
    """The text under `key`; None where it is absent, unless it is required."""
    value = row.get(key)
    if value is None and not required:
        return None
    if value is None:
        has = ", ".join(f"`{name}`" for name in row) or "nothing"
        raise MrlError(f"has no `{key}` (it has {has})", where=where, mend=f"add `{key}`")
    if not isinstance(value, str):
        problem = f"`{key}` is {value!r:.60}, expected text"
        raise MrlError(problem, where=where, mend="write it as a string")
    if not value.strip():
        raise MrlError(f"`{key}` is empty", where=where, mend="fill it, or leave the row out")
    return value


def _refuse(ids: Sequence[str], problem: str, folder: Path) -> None:
    """Raise if there are any, naming the first five and how many there are."""
    if ids:
        named = ", ".join(map(repr, ids[:5])) + (", …" if len(ids) > 5 else "")
        raise MrlError(f"{problem}: {len(ids)} ({named})", where=folder, mend="correct the tables")


def _read_table(folder: Path, name: str) -> Iterator[Row]:
    """Every row of a table, from whichever of its forms is there."""
    forms = [folder / f"{name}.jsonl", folder / f"{name}.parquet"]
    if name == "qrels":
        forms += [folder / "qrels.tsv", folder / "qrels" / "test.tsv"]
    found = [[form] for form in forms if form.is_file()]
    if shards := sorted((folder / name).glob("*.parquet")):
        found.append(shards)
    names = [str(form.relative_to(folder)) for form in forms] + [f"{name}/*.parquet"]
    if not found:
        problem = f"has no table `{name}` (none of {', '.join(names)})"
        raise MrlError(problem, where=folder, mend="a set has queries, corpus and qrels")
    if len(found) > 1:
        both = " and ".join(str(files[0].relative_to(folder)) for files in found)
        raise MrlError(f"has the table `{name}` twice: {both}", where=folder, mend="keep one")
    readers = {".jsonl": _read_jsonl, ".tsv": _read_tsv, ".parquet": _read_parquet}
    empty = True
    for file in found[0]:
        for row in readers[file.suffix](file):
            empty = False
            yield row
    if empty:
        raise MrlError(f"the table `{name}` is empty", where=found[0][0], mend="add rows to it")


def _read_lines(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}, line {number}", line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise MrlError("is not UTF-8", where=file, mend="save it as UTF-8") from error


def _read_jsonl(file: Path) -> Iterator[Row]:
    for where, line in _read_lines(file):
        try:
            row = json.loads(line)
        except ValueError as error:
            problem = f"is not JSON ({first_line(error)})"
            raise MrlError(problem, where=where, mend="write one JSON object a line") from error
        if not isinstance(row, dict):
            problem = f"is {line.strip()[:40]}, expected a JSON object"
            raise MrlError(problem, where=where, mend="write one JSON object a line")
        yield where, row


def _read_tsv(file: Path) -> Iterator[Row]:
    header: list[str] = []
    for where, line in _read_lines(file):
        fields = [field.strip() for field in line.split("\t")]
        if not header:
            header = fields
            if not {"query-id", "corpus-id"} <= set(header):
                mend = "head the columns query-id, corpus-id and score, with tabs between"
                raise MrlError(f"has the header {line[:60]!r}", where=where, mend=mend)
        elif len(fields) != len(header):
            problem = f"has {len(fields)} columns, expected {len(header)}"
            raise MrlError(problem, where=where, mend="separate the columns by one tab each")
        else:
            yield where, dict(zip(header, fields, strict=True))


def _read_parquet(file: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        problem = "reading parquet takes pyarrow, which is not installed"
        mend = "install the extra: `pip install 'mrl_jax[train]'`"
        raise MrlError(problem, where=file, mend=mend) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256):  # Recordings are large.
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"cannot be read as parquet ({first_line(error)})"
        raise MrlError(problem, where=file, mend="download or write it again") from error


def _write_table(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    os.replace(partial, file)
