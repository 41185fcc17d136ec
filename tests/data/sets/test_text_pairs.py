"""Pairs of texts: what is read and refused, and the batches they make."""

import collections
import dataclasses
import hashlib
import json

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.text import (
    TextBatchConfig,
    TextPairSource,
    pair_identities,
    prompted,
)
from mrl_jax.data.sets.text_pairs import TextPair, pairs_digest, read_pairs
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer

ROWS = [
    {"query": "ñaata la", "document": "Combien ?", "task_type": "translation"},
    {"query": "lii lan la", "document": "Qu'est-ce que c'est ?", "task_type": "translation"},
    {"query": "fan la", "document": "Où est-ce ?"},
]


def write(path, rows):
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def texts_of(pairs):
    return [(pair.query, pair.document, pair.task) for pair in pairs]


EXPECTED = [(row["query"], row["document"], row.get("task_type", "")) for row in ROWS]


def test_json_lines_and_parquet_are_the_same_pairs(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    lines = read_pairs(write(tmp_path / "pairs.jsonl", ROWS))
    assert texts_of(lines) == EXPECTED
    table = pyarrow.table(
        {name: [row.get(name) for row in ROWS] for name in ("query", "document", "task_type")}
    )
    (tmp_path / "hub").mkdir()
    parquet.write_table(table, tmp_path / "hub" / "train-00000-of-00001.parquet")
    parquet.write_table(table.slice(0, 1), tmp_path / "hub" / "test-00000-of-00001.parquet")
    shards = read_pairs(tmp_path / "hub")
    assert texts_of(shards) == EXPECTED
    assert pairs_digest(lines) == pairs_digest(shards) != pairs_digest(lines[:2])
    assert shards[1].where.endswith("train-00000-of-00001.parquet, row 2")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "  ", "document": "b"}, "line 2: `query` is empty"),
        ({"query": "a", "document": ""}, "line 2: `document` is empty"),
        ({"query": "a", "text": "b"}, "line 2: has no `document` (it has `query`, `text`)"),
        ({"query": "a", "document": 3}, "line 2: `document` is 3, expected text"),
        ({"query": "a", "document": "b", "task_type": 1}, "line 2: `task_type` is 1"),
        ({"query": "a", "document": "b", "query_id": ""}, "line 2: `query_id` is empty"),
        ('{"query": "\\ud83d", "document": "b"}', "line 2: `query` holds half a surrogate"),
        ("query,document", "line 2: is not JSON"),
        ('["a", "b"]', "expected a JSON object"),
    ],
)
def test_a_bad_line_is_named(row, message, tmp_path):
    with pytest.raises(MrlError) as caught:
        read_pairs(write(tmp_path / "pairs.jsonl", [ROWS[0], row]))
    assert message in str(caught.value)


WITH_IDS = [
    {"query": "a", "document": "b", "task_type": "t", "query_id": "x", "document_id": "y"},
    {"query": "c", "document": "d", "task_type": "t", "query_id": "7", "document_id": "8"},
]


def test_ids_are_optional_columns_of_every_table(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    numbers = {**WITH_IDS[1], "query_id": 7, "document_id": 8}
    lines = read_pairs(write(tmp_path / "pairs.jsonl", [WITH_IDS[0], numbers, ROWS[0]]))
    assert [(pair.query_id, pair.document_id) for pair in lines] == [
        ("x", "y"),
        ("7", "8"),
        (None, None),
    ]
    table = [",".join(WITH_IDS[0]), *(",".join(row.values()) for row in WITH_IDS)]
    parquet.write_table(pyarrow.Table.from_pylist(WITH_IDS), tmp_path / "pairs.parquet")
    for pairs in (
        read_pairs(write(tmp_path / "pairs.csv", table)),
        read_pairs(tmp_path / "pairs.parquet"),
    ):
        unplaced = [dataclasses.replace(pair, where="") for pair in pairs]
        assert unplaced == [dataclasses.replace(pair, where="") for pair in lines[:2]]
    with pytest.raises(MrlError, match=r"line 2: `query_id` is empty"):
        read_pairs(write(tmp_path / "pairs.csv", [table[0], "a,b,t,,y"]))


def test_a_digest_counts_ids_only_where_they_are_given():
    (pair,) = [TextPair(query="a", document="b", task="t")]
    assert pairs_digest([pair]) == hashlib.sha256(b"a\0b\0t\0").hexdigest()
    digests = {
        pairs_digest([dataclasses.replace(pair, **ids)])
        for ids in ({}, {"query_id": "x"}, {"document_id": "x"}, {"query_id": "y"})
    }
    assert len(digests) == 4


def test_what_is_no_table_of_pairs_is_refused(tmp_path):
    with pytest.raises(MrlError, match="has no pairs"):
        read_pairs(write(tmp_path / "pairs.jsonl", []))
    with pytest.raises(MrlError, match="no such file"):
        read_pairs(tmp_path / "other.jsonl")
    with pytest.raises(MrlError, match="has no Parquet files"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.txt").write_text("a\tb")
    with pytest.raises(MrlError, match=r"kind \.txt"):
        read_pairs(tmp_path / "pairs.txt")


def test_prompts_stand_before_queries_of_their_task():
    pairs = [TextPair(query=q, document=d, task=t) for q, d, t in EXPECTED]
    queries = prompted(pairs, {"translation": "Find the French"})
    assert queries == [
        "Find the French\nQuery:ñaata la",
        "Find the French\nQuery:lii lan la",
        "fan la",
    ]
    assert prompted(pairs, {}) == [pair.query for pair in pairs]
    assert prompted(pairs, {"translation": ""}) == [pair.query for pair in pairs]
    stray = TextPair(query="a", document="b", task="rag", where="x.jsonl, line 9")
    with pytest.raises(MrlError, match=r"x\.jsonl, line 9: the task 'rag' has no prompt"):
        prompted([stray], {"translation": ""})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, text in new_tokenizer(["abcdefgh \nquery:"], units="characters").items():
        (folder / name).write_text(text)
    return TextTokenizer(folder, max_tokens=12)


def source(tokenizer, *, number=23, batch_size=4, seed=0, **fields):
    pairs = [
        TextPair(query="ab"[i % 2] * (1 + i % 5), document="c" * (1 + i % 7)) for i in range(number)
    ]
    config = TextBatchConfig(batch_size=batch_size, max_tokens=12, **fields)
    return TextPairSource(pairs, tokenizer, config, seed=seed)


def test_batches_are_a_function_of_seed_and_step(tokenizer):
    ours, again, other = source(tokenizer), source(tokenizer), source(tokenizer, seed=1)
    assert ours.batches_per_epoch == 5
    late = next(again.from_step(7))
    for name, value in vars(ours(7)).items():
        np.testing.assert_array_equal(value, getattr(late, name))
    assert any(not np.array_equal(ours(i).query, other(i).query) for i in range(5))
    assert any(not np.array_equal(ours(i).query, ours(5 + i).query) for i in range(5))


def test_rows_are_whole_and_equal_texts_have_equal_ids(tokenizer):
    batches = source(tokenizer)
    for step in range(5):
        batch = batches(step)
        assert batch.query.shape == batch.query_mask.shape == (4, 16)
        for tokens, mask, ids in (
            (batch.query, batch.query_mask, batch.query_ids),
            (batch.document, batch.document_mask, batch.document_ids),
        ):
            rows = [tuple(row[keep]) for row, keep in zip(tokens, mask, strict=True)]
            assert all(row[-1] == tokenizer.end_id and len(row) > 1 for row in rows)
            for i in range(4):
                for j in range(4):
                    assert (rows[i] == rows[j]) == (ids[i] == ids[j])


def test_an_id_stands_for_its_text(tokenizer):
    grouped = [("a", "b", "x", None), ("c", "d", "x", None)]
    rows = [*grouped, ("a", "b", None, "1"), ("a", "d", None, "1")]
    pairs = [
        TextPair(query=q, document=d, query_id=query_id, document_id=document_id)
        for q, d, query_id, document_id in rows
    ]
    queries, documents = (
        tokenizer.encode([getattr(pair, side) for pair in pairs]) for side in ("query", "document")
    )
    query_ids, document_ids = pair_identities(pairs, queries, documents)
    assert query_ids.tolist() == [0, 0, 1, 1]
    assert document_ids.tolist() == [0, 1, 2, 2]
    batch = TextPairSource(pairs, tokenizer, TextBatchConfig(batch_size=4), seed=0)(0)
    assert len(set(batch.query_ids)) == 2
    assert len(set(batch.document_ids)) == 3


def test_a_batch_keeps_to_one_task(tokenizer):
    tasks = ("", "find", "name")
    pairs = [TextPair(query="fgh"[i % 3], document="b", task=tasks[i % 3]) for i in range(30)]
    letters = {ids[0]: task for ids, task in zip(tokenizer.encode("fgh"), tasks, strict=True)}
    weights = {"": 1.0, "find": 2.0, "name": 0.0}
    homogeneous = TextBatchConfig(batch_size=4, task_homogeneous=True)
    weighted = TextBatchConfig(batch_size=4, task_homogeneous=True, task_weights=weights)
    for config, counts in (
        (TextBatchConfig(batch_size=4), None),
        (homogeneous, {task: 3 for task in tasks}),
        (weighted, {"": 3, "find": 6}),
    ):
        batches = TextPairSource(pairs, tokenizer, config, seed=0)
        found = [{letters[i] for i in batches(step).query[:, 0].tolist()} for step in range(9)]
        if counts is None:
            assert any(len(of_batch) > 1 for of_batch in found)
        else:
            assert collections.Counter(task for (task,) in found) == counts


def test_pairs_that_never_come_decide_on_no_shape(tokenizer):
    short = [TextPair(query="fgh"[i % 3], document="b", task="find") for i in range(12)]
    long = [TextPair(query="a" * 20, document="b" * 30, task="name") for _ in range(4)]
    whole = TextTokenizer(tokenizer.path.parent)
    for weight, longest in ((1.0, (24, 32)), (0.0, (16, 16))):
        weights = {"find": 1.0, "name": weight}
        config = TextBatchConfig(batch_size=4, task_homogeneous=True, task_weights=weights)
        assert TextPairSource(short + long, whole, config, seed=0).shapes[-1] == longest


def test_long_texts_are_cut_and_counted(tokenizer):
    pairs = [TextPair(query="a" * 30, document="b" * n) for n in (3, 10, 11, 12)]
    batches = TextPairSource(pairs, tokenizer, TextBatchConfig(batch_size=4, max_tokens=12), seed=0)
    assert batches.cut == 4 + 2
    assert batches(0).query_mask.sum(axis=1).tolist() == [12] * 4
    assert batches.largest_id < 20


def test_fewer_pairs_than_a_batch(tokenizer):
    with pytest.raises(MrlError, match="there are 3 pairs of texts, expected at least the 4"):
        source(tokenizer, number=3)
    with pytest.raises(MrlError, match="batch_size is 1, expected 2 or more"):
        TextBatchConfig(batch_size=1)
    with pytest.raises(MrlError, match="max_tokens is 1, expected 2 or more"):
        TextBatchConfig(max_tokens=1)


def test_pieces_spell_every_text(tmp_path):
    files = new_tokenizer(["lii lan la", "lan la lii"] * 3, units="pieces", max_pieces=270)
    assert files == new_tokenizer(["lii lan la", "lan la lii"] * 3, units="pieces", max_pieces=270)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    made = TextTokenizer(tmp_path)
    assert made.end_id == 0
    seen, unseen = made.encode(["lan la", "Œuf 漢"])
    assert len(seen) == 3
    assert len(unseen) > 1
    with pytest.raises(MrlError, match="a vocabulary of 200 pieces is too small"):
        new_tokenizer(["a"], units="pieces", max_pieces=200)
