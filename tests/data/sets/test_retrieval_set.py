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


TABLES = tables()
JUDGED = {"query-id": "q0", "corpus-id": "d0"}
NINE = [{"query-id": "q0", "corpus-id": f"x{i}"} for i in range(9)]
MISTAKES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no queries": (lambda f: (f / "queries.jsonl").unlink(), ("no table `queries`",)),
    "no corpus": (lambda f: (f / "corpus.jsonl").unlink(), ("no table `corpus`",)),
    "no qrels": (
        lambda f: (f / "qrels.jsonl").unlink(),
        ("no table `qrels`", ".tsv", "in qrels/", "corpus.jsonl"),
    ),
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
    "audio is a number": (put("queries", lambda r: r[0].update(audio=3)), ("line 1", "`audio`")),
    "absent audio": (
        put("queries", lambda r: r[0].update(audio="audio/none.wav")),
        ("do not exist: 1 (", "none.wav"),
    ),
    "no words at all": (
        raw("queries.jsonl", '{"_id": "q0", "text": " ", "audio": null}\n'),
        ("no query has audio or text",),
    ),
    "text is a list": (put("corpus", lambda r: r[1].update(text=["a"])), ("expected text",)),
    "_id is a bool": (put("corpus", lambda r: r[1].update(_id=True)), ("`_id` is True",)),
    "two queries": (
        put("queries", lambda r: r.append(r[0] | {"task": "asr"})),
        ("queries repeats", "1 ('q0')"),
    ),
    "two documents": (
        put("corpus", lambda r: r.extend(row | {"text": "x"} for row in TABLES["corpus"])),
        ("3 ('d0', 'd1', 'd2')",),
    ),
    "only unknown queries": (
        put("qrels", lambda r: [row.update({"query-id": "q9"}) for row in r]),
        ("no query has a relevant document", "query-ids that queries does not have: 1 ('q9')"),
    ),
    "only unknown documents": (
        put("qrels", lambda r: [row.update({"corpus-id": f"x{i}"}) for i, row in enumerate(r)]),
        ("no query has a relevant document in the corpus", "corpus does not have: 3 ('x0',"),
    ),
    "half a score": (put("qrels", lambda r: r[0].update(score=0.5)), ("line 1", "`score` is 0.5")),
    "a large score": (
        raw("qrels.jsonl", '{"query-id": "q0", "corpus-id": "d0", "score": 1%s}' % ("0" * 400)),
        ("line 1", "is not JSON (a number of 401 digits"),
    ),
    "a large score in a .tsv": (
        raw("qrels.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t1%s\n" % ("0" * 400)),
        ("qrels.tsv, line 2", "`score` is '1000000"),
    ),
    "deep JSON": (
        raw("queries.jsonl", "[" * 200_000),
        ("queries.jsonl, line 1", "is not JSON (nested too deeply)"),
    ),
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


UNJUDGED = "queries without a relevant document, which no score counts: 1 ('q2')"
ISSUES: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "empty document": (
        put("corpus", lambda r: r[2].update(text="", title=" ")),
        "documents without text: 1 ('d2')",
        True,
    ),
    "null document": (
        put("corpus", lambda r: r[2].update(text=None)),
        "documents without text: 1 ('d2')",
        True,
    ),
    "empty query": (
        put("queries", lambda r: r[1].update(text=" ")),
        "queries with neither audio nor text, left out: 1 ('q1')",
        True,
    ),
    "null audio": (
        put("queries", lambda r: r[0].update(audio=None)),
        "queries with neither audio nor text, left out: 1 ('q0')",
        True,
    ),
    "same query": (
        put("queries", lambda r: r.append(r[0])),
        "rows of queries that are there twice: 1 ('q0')",
        True,
    ),
    "same documents": (
        put("corpus", lambda r: r.extend(tables()["corpus"])),
        "rows of corpus that are there twice: 3 ('d0', 'd1', 'd2')",
        True,
    ),
    "same judgement": (
        put("qrels", lambda r: r.append(r[1])),
        "judgements given twice, alike, of which the last counts: 1 ('q1 d1')",
        True,
    ),
    "two judgements": (
        put("qrels", lambda r: r.append(r[1] | {"score": 3})),
        "judgements given twice, differently, of which the last counts: 1 ('q1 d1')",
        True,
    ),
    "unknown query": (
        put("qrels", lambda r: r.append(JUDGED | {"query-id": "q9"})),
        "qrels names query-ids that queries does not have: 1 ('q9')",
        True,
    ),
    "unknown documents": (
        put("qrels", lambda r: r.extend(NINE)),
        "qrels names corpus-ids that corpus does not have: 9 ('x0', 'x1', 'x2', 'x3', 'x4', …)",
        True,
    ),
    "negative": (
        put("qrels", lambda r: r[2].update(score=-1)),
        "negative judgements, which count as 0: 1 ('q1 d0')",
        False,
    ),
    "a key twice": (
        raw(
            "corpus.jsonl",
            "".join(f'{{"_id": "d{i}", "text": "a", "_id": "d{i}"}}\n' for i in (0, 1)),
        ),
        "lines of JSON have a key twice, of which the last value counts: 2 (",
        False,
    ),
    "one other split": (
        lambda folder: write_tsv(folder, "qrels", TABLES["qrels"], path="qrels/dev.tsv"),
        "judgements of the only split there is: 1 ('dev')",
        False,
    ),
}


@pytest.mark.parametrize("issue", ISSUES)
def test_what_nobody_can_edit_is_counted(folder, issue: str):
    sound = read_retrieval_set(folder)
    assert [str(one) for one in sound.issues] == [UNJUDGED]
    judged = [{"query-id": "q2", "corpus-id": "d2"}]
    write_jsonl(folder, "qrels", [*TABLES["qrels"], *judged])
    assert read_retrieval_set(folder, strict=True).issues == ()
    write_jsonl(folder, "qrels", TABLES["qrels"])
    spoil, expected, fatal = ISSUES[issue]
    spoil(folder)
    data = read_retrieval_set(folder)
    named = {str(one): one for one in data.issues}
    (text,) = [text for text in named if text.startswith(expected)]
    assert named[text].harmless is not fatal
    with pytest.raises(MrlError) as message:  # A query is unjudged in any case.
        read_retrieval_set(folder, strict=True)
    assert (expected in str(message.value)) is fatal
    assert "--strict" in str(message.value)


def test_what_an_issue_leaves_of_the_set(folder):
    rows = tables()
    rows["qrels"] += [
        {"query-id": "q2", "corpus-id": "x", "score": 2},
        {"query-id": "q9", "corpus-id": "d0", "score": 1},
        {"query-id": "q0", "corpus-id": "d2", "score": -2},
    ]
    rows["corpus"][1]["text"] = ""
    rows["queries"].append({"_id": "q3", "text": "ba", "transcript": "", "speaker": 1.0})
    for name, some in rows.items():
        write_jsonl(folder, name, some)
    data = read_retrieval_set(folder)
    assert data.corpus[1] == Document(id="d1", text="")
    assert data.qrels == {"q0": {"d0": 1, "d2": 0}, "q1": {"d1": 2, "d0": 0}, "q2": {"x": 2}}
    assert data.unjudged == ("q3",)
    assert data.queries[3] == Query(id="q3", text="ba", speaker="1")
    with pytest.raises(MrlError, match="does not have"):  # One's own set can be corrected.
        write_retrieval_set(folder, data.queries, data.corpus, data.qrels)


@pytest.mark.parametrize("ending", ["jsonl", "tsv", "csv", "parquet"])
@pytest.mark.parametrize(
    ("stems", "chosen", "message"),
    [
        (("test", "dev", "train"), "test", ""),
        (("dev",), "dev", ""),
        (("0000", "0001"), None, ""),
        (("train", "dev"), None, r"of the splits dev, train, and none of test.*--qrels-split"),
        (("test2020", "test2021"), None, "of the splits test2020, test2021, and none of test"),
    ],
)
def test_judgements_of_several_splits(folder, ending, stems, chosen, message):
    (folder / "qrels.jsonl").unlink()
    (folder / "qrels").mkdir()
    (folder / "qrels" / "README.md").write_text("no table")
    for grade, stem in enumerate(stems, 1):
        row = {"query-id": "q0", "corpus-id": f"d{grade - 1}", "score": float(grade)}
        file = folder / "qrels" / f"{stem}.{ending}"
        if ending == "parquet":
            parquet.write_table(table_of([row]), file)
        elif ending == "jsonl":
            file.write_text(json.dumps(row) + "\n")
        else:
            mark = "\t" if ending == "tsv" else ","
            file.write_text(f"{mark.join(row)}\n{mark.join(map(str, row.values()))}\n")
    if message:
        with pytest.raises(MrlError, match=message):
            read_retrieval_set(folder)
        assert read_retrieval_set(folder, split=stems[1]).qrels == {"q0": {"d1": 2}}
        with pytest.raises(MrlError, match=r"no judgements of the split 'x'; there are"):
            read_retrieval_set(folder, split="x")
        return
    qrels = read_retrieval_set(folder).qrels
    assert qrels == {"q0": {"d0": 1} if chosen else {"d0": 1, "d1": 2}}


def test_judgements_without_splits_have_none_to_choose(folder):
    with pytest.raises(MrlError, match="its judgements have no splits"):
        read_retrieval_set(folder, split="test")
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\nq0\td0\n")
    with pytest.raises(MrlError, match=r"`qrels` twice: qrels.jsonl and qrels/test.tsv"):
        read_retrieval_set(folder)


def test_parquet_without_pyarrow_names_the_extra(folder, monkeypatch):
    write_parquet(folder, "corpus", tables()["corpus"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MrlError, match=r"takes pyarrow.*mrl_jax\[train\]"):
        read_retrieval_set(folder)
