"""Retrieval sets: every form on disk gives the same set, and every mistake is named."""

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_tables import parquet, pyarrow, soundfile, tone

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.data.sets.retrieval_set import (
    Document,
    Query,
    RetrievalSet,
    load_query_audio,
    read_retrieval_set,
    write_retrieval_set,
)

Rows = list[dict[str, Any]]
TEXTS = ("Où vend-on le mil ?", "Le mil coûte cent francs.", "Bonjour.")


def tables() -> dict[str, Rows]:
    return {
        "queries": [
            {"_id": "q0", "audio": "audio/q0.wav", "task": "translation", "speaker": "awa"},
            {"_id": "q1", "text": "Dugub ji ñaata la?", "transcript": None},
            {"_id": "q2", "audio": "audio/q2.wav", "transcript": "asalaa maalekum"},
        ],
        "corpus": [{"_id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)],
        "qrels": [
            {"query-id": "q0", "corpus-id": "d0", "score": 1},
            {"query-id": "q1", "corpus-id": "d1", "score": 2},
            {"query-id": "q1", "corpus-id": "d0", "score": 0},
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound set in JSON Lines, which each test of a mistake spoils in one place."""
    (tmp_path / "set" / "audio").mkdir(parents=True)
    for name, hertz in (("q0", 300), ("q2", 500)):
        soundfile.write(tmp_path / "set" / "audio" / f"{name}.wav", tone(hertz), 16000)
    for name, rows in tables().items():
        write_jsonl(tmp_path / "set", name, rows)
    return tmp_path / "set"


def write_jsonl(folder: Path, name: str, rows: Rows) -> None:
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def table_of(rows: Rows) -> Any:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return pyarrow.Table.from_pylist([{key: row.get(key) for key in keys} for row in rows])


def write_parquet(folder: Path, name: str, rows: Rows) -> None:
    parquet.write_table(table_of(rows), folder / f"{name}.parquet")
    (folder / f"{name}.jsonl").unlink()


def write_shards(folder: Path, name: str, rows: Rows) -> None:
    """As on the Hugging Face hub: a folder of shards, recordings inside the table."""
    (folder / name).mkdir()
    rows = [dict(row) for row in rows]
    for row in rows:
        if audio := row.pop("audio", None):
            row["audio"] = {"bytes": (folder / audio).read_bytes(), "path": Path(audio).name}
    whole = table_of(rows)
    for i in range(2):
        shard = whole.slice(2 * i, 2) if i == 0 else whole.slice(2)
        parquet.write_table(shard, folder / name / f"test-0000{i}-of-00002.parquet")
    (folder / f"{name}.jsonl").unlink()


def write_tsv(folder: Path, name: str, rows: Rows, path: str = "qrels.tsv") -> None:
    lines = ["query-id\tcorpus-id\tscore"]
    lines += [f"{row['query-id']}\t{row['corpus-id']}\t{row['score']}" for row in rows]
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / f"{name}.jsonl").unlink()


def test_a_set_in_json_lines(folder):
    data = read_retrieval_set(folder)
    assert [query.id for query in data.queries] == ["q0", "q1", "q2"]
    assert data.queries[0] == Query(
        id="q0", audio=folder / "audio/q0.wav", task="translation", speaker="awa"
    )
    assert data.queries[1].text == "Dugub ji ñaata la?"
    assert data.queries[2].transcript == "asalaa maalekum"
    assert data.corpus[1] == Document(id="d1", text="Le mil coûte cent francs.")
    assert data.qrels == {"q0": {"d0": 1}, "q1": {"d1": 2, "d0": 0}}
    assert data.unjudged == ("q2",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.queries = ()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        data.qrels["q2"] = {"d2": 1}  # pyright: ignore[reportIndexIssue]


def test_a_query_whose_judgements_are_all_zero_is_unjudged(folder):
    rows = [*tables()["qrels"], {"query-id": "q2", "corpus-id": "d2", "score": 0}]
    write_jsonl(folder, "qrels", rows)
    assert read_retrieval_set(folder).unjudged == ("q2",)
    rows[-1]["score"] = 1
    write_jsonl(folder, "qrels", rows)
    assert read_retrieval_set(folder).unjudged == ()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        *((name, write_parquet) for name in ("queries", "corpus", "qrels")),
        *((name, write_shards) for name in ("corpus", "qrels")),
        ("qrels", write_tsv),
        ("qrels", lambda *args: write_tsv(*args, path="qrels/test.tsv")),
    ],
)
def test_every_form_of_a_table_gives_the_same_set(
    folder, name: str, write: Callable[[Path, str, Rows], None]
):
    expected = read_retrieval_set(folder)
    write(folder, name, tables()[name])
    assert not (folder / f"{name}.jsonl").exists()
    assert read_retrieval_set(folder) == expected
    (folder / "corpus.jsonl").unlink(missing_ok=True)  # The order of the rows is kept, too.
    shutil.rmtree(folder / "corpus", ignore_errors=True)
    (folder / "corpus.parquet").unlink(missing_ok=True)
    write_jsonl(folder, "corpus", tables()["corpus"][::-1])
    assert read_retrieval_set(folder) != expected


def test_recordings_inside_a_hugging_face_table(folder):
    plain = read_retrieval_set(folder)
    write_shards(folder, "queries", tables()["queries"])
    inside = read_retrieval_set(folder)
    assert isinstance(inside.queries[0].audio, bytes)
    for a, b in zip(plain.queries, inside.queries, strict=True):
        assert dataclasses.replace(a, audio=None) == dataclasses.replace(b, audio=None)
        if a.audio:
            np.testing.assert_array_equal(load_query_audio(a, 16000), load_query_audio(b, 16000))
    assert not np.array_equal(
        load_query_audio(inside.queries[0], 16000), load_query_audio(inside.queries[2], 16000)
    )


def test_audio_by_bytes_and_by_path_is_the_same_at_any_rate(folder):
    path = folder / "audio" / "q0.wav"
    for rate, samples in ((16000, 1600), (8000, 800)):
        clip = load_query_audio(Query(id="q", audio=path.read_bytes()), rate)
        assert clip.dtype == np.float32
        assert clip.shape == (samples,)
        np.testing.assert_array_equal(clip, load_clip(path, rate))


@pytest.mark.parametrize("spoil", [b"not audio", b"RIFF"])
def test_bytes_that_are_no_audio_name_their_query(spoil):
    with pytest.raises(MrlError, match=r"audio of query 'q7': cannot be decoded as audio"):
        load_query_audio(Query(id="q7", audio=spoil), 16000)


def test_a_written_query_has_no_recording():
    with pytest.raises(MrlError, match="query 'q1': has no audio, only text"):
        load_query_audio(Query(id="q1", text="ñaata"), 16000)


def test_absolute_paths_numbers_as_ids_and_blank_lines(folder, tmp_path):
    soundfile.write(tmp_path / "far.flac", tone(700), 16000)
    write_jsonl(folder, "queries", [{"_id": 7, "audio": str(tmp_path / "far.flac"), "speaker": 12}])
    (folder / "qrels.jsonl").write_text('\ufeff{"query-id": 7, "corpus-id": "d0"}\n\n')
    data = read_retrieval_set(folder)
    assert data.queries == (Query(id="7", audio=tmp_path / "far.flac", speaker="12"),)
    assert data.qrels == {"7": {"d0": 1}}  # The score is 1 unless given.


def test_write_and_read_back(folder, tmp_path):
    data = read_retrieval_set(folder)
    again = write_retrieval_set(folder, data.queries, data.corpus, data.qrels)
    assert again == data
    row = json.loads((folder / "queries.jsonl").read_text("utf-8").splitlines()[0])
    assert row["audio"] == "audio/q0.wav"
    assert row["_id"] == "q0"
    elsewhere = write_retrieval_set(tmp_path / "b", data.queries, data.corpus, data.qrels)
    assert elsewhere == data
    assert "ñaata" in (tmp_path / "b" / "queries.jsonl").read_text("utf-8")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "corpus.jsonl",
        "qrels.jsonl",
        "queries.jsonl",
    ]
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(300), 16000, format="WAV")
    query = Query(id="q", audio=buffer.getvalue())
    with pytest.raises(MrlError, match="query 'q': holds bytes of audio"):
        write_retrieval_set(tmp_path / "c", [query], data.corpus, {"q": {"d0": 1}})
    with pytest.raises(MrlError, match="does not have"):
        write_retrieval_set(tmp_path / "d", data.queries, data.corpus, {"q0": {"d9": 1}})


def test_an_empty_set_has_no_unjudged_queries():
    assert RetrievalSet(queries=(), corpus=(), qrels={}).unjudged == ()


def put(name: str, change: Callable[[Rows], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        rows = tables()[name]
        change(rows)
        write_jsonl(folder, name, rows)

    return spoil


def raw(name: str, text: str | bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if name.endswith(".tsv"):
            (folder / "qrels.jsonl").unlink()
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return spoil


JUDGED = {"query-id": "q0", "corpus-id": "d0"}
NINE = [{"query-id": "q0", "corpus-id": f"x{i}"} for i in range(9)]
MISTAKES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no queries": (lambda f: (f / "queries.jsonl").unlink(), ("no table `queries`",)),
    "no corpus": (lambda f: (f / "corpus.jsonl").unlink(), ("no table `corpus`",)),
    "no qrels": (lambda f: (f / "qrels.jsonl").unlink(), ("no table `qrels`", "qrels/test.tsv")),
    "empty queries": (raw("queries.jsonl", ""), ("queries.jsonl", "`queries` is empty")),
    "empty corpus": (raw("corpus.jsonl", "\n"), ("corpus.jsonl", "`corpus` is empty")),
    "empty qrels": (raw("qrels.tsv", "query-id\tcorpus-id\n"), ("`qrels` is empty",)),
    "twice": (
        raw("corpus.parquet", b"PAR1"),
        ("`corpus` twice: corpus.jsonl and corpus.parquet",),
    ),
    "not JSON": (
        raw("corpus.jsonl", '{"_id": "d0", "text": "a"}\n{"_id"\n'),
        ("corpus.jsonl, line 2", "is not JSON"),
    ),
    "not an object": (raw("corpus.jsonl", "[1]\n"), ("line 1", "[1]", "JSON object")),
    "not UTF-8": (raw("corpus.jsonl", b"\xff\xfe"), ("corpus.jsonl", "UTF-8")),
    "not parquet": (
        lambda f: ((f / "corpus.jsonl").unlink(), (f / "corpus.parquet").write_text("no")),
        ("corpus.parquet", "cannot be read as Parquet"),
    ),
    "no _id": (put("queries", lambda r: r[1].pop("_id")), ("line 2", "has no `_id`", "`text`")),
    "no text": (put("corpus", lambda r: r[2].pop("text")), ("line 3", "has no `text`")),
    "no query-id": (put("qrels", lambda r: r[0].pop("query-id")), ("line 1", "`query-id`")),
    "no corpus-id": (put("qrels", lambda r: r[0].pop("corpus-id")), ("line 1", "`corpus-id`")),
    "neither": (
        put("queries", lambda r: r[0].pop("audio")),
        ("line 1", "neither `audio` nor `text`", "'q0'"),
    ),
    "null audio": (put("queries", lambda r: r[0].update(audio=None)), ("neither `audio`",)),
    "audio is a number": (put("queries", lambda r: r[0].update(audio=3)), ("line 1", "`audio`")),
    "audio is empty": (put("queries", lambda r: r[0].update(audio="")), ("line 1", "`audio`")),
    "absent audio": (
        put("queries", lambda r: r[0].update(audio="audio/none.wav")),
        ("do not exist: 1 (", "none.wav"),
    ),
    "empty query": (put("queries", lambda r: r[1].update(text=" ")), ("line 2", "is empty")),
    "empty document": (put("corpus", lambda r: r[1].update(text="")), ("line 2", "is empty")),
    "text is a list": (put("corpus", lambda r: r[1].update(text=["a"])), ("expected text",)),
    "_id is a bool": (put("corpus", lambda r: r[1].update(_id=True)), ("`_id` is True",)),
    "same query": (put("queries", lambda r: r.append(r[0])), ("queries repeats", "1 ('q0')")),
    "same document": (put("corpus", lambda r: r.extend(r)), ("3 ('d0', 'd1', 'd2')",)),
    "same judgement": (put("qrels", lambda r: r.append(r[1])), ("line 4", "'q1'", "second time")),
    "unknown query": (
        put("qrels", lambda r: r.append(JUDGED | {"query-id": "q9"})),
        ("query-ids that queries does not have: 1 ('q9')",),
    ),
    "unknown documents": (
        put("qrels", lambda r: r.extend(NINE)),
        ("corpus-ids that corpus does not have: 9 ('x0', 'x1', 'x2', 'x3', 'x4', …)",),
    ),
    "half a score": (put("qrels", lambda r: r[0].update(score=0.5)), ("line 1", "`score` is 0.5")),
    "negative": (put("qrels", lambda r: r[1].update(score=-1)), ("line 2", "`score` is -1")),
    "score is a bool": (put("qrels", lambda r: r[1].update(score=True)), ("`score` is True",)),
    "score is null": (put("qrels", lambda r: r[1].update(score=None)), ("`score` is None",)),
    "score is a word": (
        raw("qrels.tsv", "query-id\tcorpus-id\tscore\nq0\td0\tgood\n"),
        ("qrels.tsv, line 2", "`score` is 'good'"),
    ),
    "no header": (raw("qrels.tsv", "q0\td0\t1\n"), ("line 1", "has the header", "query-id")),
    "columns": (
        raw("qrels.tsv", "query-id\tcorpus-id\tscore\nq0\td0\n"),
        ("line 2", "has 2 columns, expected 3"),
    ),
    "nothing relevant": (
        raw("qrels.jsonl", json.dumps(JUDGED | {"score": 0})),
        ("no query has a relevant document",),
    ),
    "no folder": (lambda f: f.rename(f.with_name("moved")), ("no such folder",)),
    "a file": (lambda f: (f.rename(f.with_name("moved")), f.touch()), ("is a file",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(folder, mistake: str):
    read_retrieval_set(folder)  # Sound before it is spoiled.
    spoil, parts = MISTAKES[mistake]
    spoil(folder)
    with pytest.raises(MrlError) as message:
        read_retrieval_set(folder)
    line = str(message.value)
    assert "\n" not in line
    assert len(line) < 600
    assert line.startswith(str(folder))
    assert message.value.hint
    for part in parts:
        assert part in line


def test_parquet_without_pyarrow_names_the_extra(folder, monkeypatch):
    write_parquet(folder, "corpus", tables()["corpus"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MrlError, match=r"takes pyarrow.*mrl_jax\[train\]"):
        read_retrieval_set(folder)
