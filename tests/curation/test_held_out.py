"""Sets of splits that are kept aside: each document once, and each query with its own."""

import json

from mrl_jax.curation.held_out import write_sets
from mrl_jax.data.sets.named_sets import load_retrieval_set


def row(name: str, text: str, **fields: str) -> dict[str, str]:
    return {"id": name, "audio": f"{name}.wav", "text": text, **fields}


def test_equal_texts_are_one_document_whatever_their_ids(tmp_path):
    rows = [
        row("a", "one", document_id="x", task="find"),
        row("b", "two", document_id="y"),
        row("c", "one"),
        row("d", "one", document_id="z"),
        row("e", "One!", document_id="x"),
        row("f", "three"),
    ]
    for name in "abcdef":
        (tmp_path / f"{name}.wav").write_bytes(b"RIFF")
    assert write_sets({"train": rows, "dev": rows}, tmp_path) == ["set-dev"]
    data = load_retrieval_set(str(tmp_path / "set-dev"))
    texts = {one.id: one.text for one in data.corpus}
    assert sorted(texts.values()) == ["one", "three", "two"]
    answers = {query: [texts[name] for name in found] for query, found in data.qrels.items()}
    expected = {"a": "one", "b": "two", "c": "one", "d": "one", "e": "one", "f": "three"}
    assert answers == {query: [text] for query, text in expected.items()}
    first = json.loads((tmp_path / "set-dev/queries.jsonl").read_text().splitlines()[0])
    assert first["task"] == "find"


def test_a_set_of_a_split_that_is_gone_is_removed(tmp_path):
    write_sets({"dev": [row("a", "one")]}, tmp_path)
    assert write_sets({"test": [row("a", "one")]}, tmp_path) == ["set-test"]
    assert not (tmp_path / "set-dev").exists()
