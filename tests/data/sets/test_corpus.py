"""Corpora to be indexed: tables, retrieval sets and text files, and what is wrong with them."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.corpus import CorpusDocument, as_document, read_corpus
from mrl_jax.data.sets.issues import IssueLog

ROWS = [
    {"_id": "a", "text": "le pain", "title": "Cuisine", "year": 1999, "tags": ["x", "y"]},
    {"_id": 7, "text": "la pluie", "title": "", "year": None},
]
EXPECTED = [
    CorpusDocument(
        id="a", text="le pain", title="Cuisine", fields={"year": 1999, "tags": ["x", "y"]}
    ),
    CorpusDocument(id="7", text="la pluie"),
]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_lines_and_a_retrieval_set_give_the_same_documents(tmp_path):
    assert list(read_corpus(write_lines(tmp_path / "a.jsonl", ROWS))) == EXPECTED
    write_lines(tmp_path / "set" / "corpus.jsonl", ROWS)
    (tmp_path / "set" / "notes.txt").write_text("not of the corpus")
    assert list(read_corpus(tmp_path / "set")) == EXPECTED
    assert EXPECTED[0].embedded_text == "Cuisine le pain"
    assert EXPECTED[1].embedded_text == "la pluie"


def test_parquet_files_and_folders_of_them(tmp_path):
    columns = {"id": ["p", "q"], "text": ["un", "deux"], "sound": [b"1", b"2"], "n": [1.5, None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    expected = [
        CorpusDocument(id="p", text="un", fields={"n": 1.5}),  # Bytes are no field.
        CorpusDocument(id="q", text="deux"),
    ]
    for source in (tmp_path / "t.parquet", tmp_path):
        assert list(read_corpus(source)) == expected


def test_text_files_are_cut_into_paragraphs(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("hidden")
    (tmp_path / "b.md").write_text("# Le loup\n\nUn.\n\nDeux.\n")
    (tmp_path / "deep" / "a.txt").write_text("Trois.", encoding="utf-8-sig")
    found = list(read_corpus(tmp_path))
    assert [document.id for document in found] == ["b.md#1", "b.md#2", "deep/a.txt#1"]
    assert [document.title for document in found] == ["Le loup", "Le loup", None]
    assert [document.fields["file"] for document in found] == ["b.md", "b.md", "deep/a.txt"]
    assert found[1].span == (16, 21)
    assert (tmp_path / "b.md").read_text()[16:21] == found[1].text == "Deux."
    assert [document.text for document in read_corpus(tmp_path / "b.md")] == ["Un.", "Deux."]


def test_rows_without_an_id_are_numbered_and_those_without_text_left_out(tmp_path):
    rows = [{"text": "un"}, {"text": " "}, {"text": None, "title": "deux"}]
    log = IssueLog()
    found = list(read_corpus(write_lines(tmp_path / "c.jsonl", rows), log=log))
    assert [(d.id, d.text, d.title) for d in found] == [("c-0", "un", None), ("c-2", "deux", None)]
    assert [issue.count for issue in log.issues] == [1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"_id": "a", "text": "un"}, {"_id": "a", "text": "deux"}], "the id 'a' is that of"),
        ([{"_id": "a", "txt": "un"}], "has no `text`"),
        ([{"_id": "a", "text": 5}], "`text` is 5"),
        ([{"_id": "a", "text": ""}], "holds no document with text"),
        ([], "holds no document with text"),
        ([{"_id": "a", "text": "\ud800"}], "surrogate"),
        ([{"_id": "a", "text": "x", "span": [3, 1]}], "`span` is"),
    ],
)
def test_a_wrong_table_is_one_line(rows, words, tmp_path):
    with pytest.raises(MrlError, match=words):
        list(read_corpus(write_lines(tmp_path / "c.jsonl", rows)))


def test_a_wrong_place_is_one_line(tmp_path):
    with pytest.raises(MrlError, match="no such file or folder"):
        list(read_corpus(tmp_path / "none"))
    with pytest.raises(MrlError, match="holds no table `corpus`"):
        list(read_corpus(tmp_path))
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    with pytest.raises(MrlError, match=r"of the kind \.pdf"):
        list(read_corpus(tmp_path / "x.pdf"))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(MrlError, match="is a named pipe"):
        list(read_corpus(tmp_path / "pipe.jsonl"))
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(MrlError, match="byte 1 is not UTF-8"):
        list(read_corpus(tmp_path / "latin.txt"))


def test_documents_of_a_program(tmp_path):
    assert as_document("un", 3) == CorpusDocument(id="3", text="un")
    row = {"id": 5, "text": "un", "span": (0, 2), "lang": "fr"}
    assert as_document(row, 0) == CorpusDocument(
        id="5", text="un", span=(0, 2), fields={"lang": "fr"}
    )
    for value in ("", {"text": " "}, {"title": 5}, 7):
        with pytest.raises(MrlError, match="document 0"):
            as_document(value, 0)  # type: ignore
