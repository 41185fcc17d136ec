"""`eval.py retrieval`, end to end on a tiny model whose head is random."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run

import mrl_jax
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.digests import digest_retrieval_set
from mrl_jax.data.sets.retrieval_set import Document, Query, read_retrieval_set, write_retrieval_set
from mrl_jax.evaluation.encoded_set import chosen_dims, clusters_of
from mrl_jax.evaluation.report.records import read_records, read_source
from mrl_jax.evaluation.retrieval.report import report_retrieval, run_retrieval
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.inference import batching
from mrl_jax.inference.encoder import Encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_run.make_retrieval_set(root / "test")
    return tiny_run.make_model(root)


@pytest.fixture(scope="module")
def embedder(folder):
    return mrl_jax.Embedder.load(folder)


def evaluate(*words: object) -> int:
    return run_command(importlib.import_module("eval").main, [str(word) for word in words])


def test_eval_retrieval_writes_a_report(folder, tmp_path, capsys):
    data, out = folder.parent / "test", tmp_path / "report"
    assert evaluate("retrieval", "--model", folder, "--data", data, "--out", out) == 0
    table = capsys.readouterr().out
    assert "| 32 |" in table
    assert "nDCG@10 of chance" in table
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    by_dim = {row["dim"]: row["value"] for row in rows if row["metric"] == "ndcg@10"}
    assert set(by_dim) == {32, 16, 8}
    assert f"{by_dim[32]:.4f}" in table
    chance = next(row["value"] for row in rows if row["metric"] == "ndcg@10 of chance")
    assert chance == pytest.approx(sum(1 / np.log2(rank + 2) for rank in range(10)) / 25)
    rankings = [json.loads(line) for line in (out / "rankings.jsonl").read_text().splitlines()]
    assert len(rankings) == 10
    # The ranking is that of the embeddings themselves.
    embedder = mrl_jax.Embedder.load(folder)
    corpus = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    documents = embedder.embed_text([row["text"] for row in corpus])
    query = embedder.embed_speech([data / "q0.wav"])
    best = corpus[int(np.argmax(documents @ query[0]))]["_id"]
    first = next(row for row in rankings if row["query"] == "q0")
    assert first["top"][0]["id"] == best
    assert {"report.md", "dimensions.png"} <= {path.name for path in out.iterdir()}
    assert (
        evaluate("retrieval", "--model", folder, "--data", data, "--out", out, "--dims", "16") == 2
    )
    assert "the output exists already" in capsys.readouterr().err
    words = ["retrieval", "--model", folder, "--data", data, "--out", out, "--overwrite"]
    assert evaluate(*words, "--dims", "16", "--ks", "3", "--ties", "id", "--binary") == 0
    assert "| 32 |" not in capsys.readouterr().out
    names = {record.metric for record in read_records(out / "results.jsonl")}
    assert {"ndcg@3", "map@3", "recall@3 over ties, worst", "ndcg@3 of chance"} <= names
    assert "ndcg@10" not in names


def test_a_report_holds_every_value_with_its_interval_and_source(folder, tmp_path):
    data, out = folder.parent / "test", tmp_path / "report"
    table = report_retrieval(folder, data, out)
    records = read_records(out / "results.jsonl")
    score = next(r for r in records if (r.metric, r.dim) == ("ndcg@10", 16))
    assert score.n == 10
    assert score.low <= score.value <= score.high
    assert f"{score.value:.4f} ({score.low:.2f} to {score.high:.2f})" in table
    pairs = [(r.dim, r.setting["other_dim"]) for r in records if r.metric.endswith("difference")]
    assert pairs == [(16, 32), (8, 16), (8, 32)]
    source = read_source(out / "results.jsonl")
    assert (source.data, source.model) == (str(data), str(folder))
    assert len(source.data_digest) == len(source.model_digest) == 64
    rows = [json.loads(line) for line in (out / "queries.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    assert np.mean([row["ndcg@10"] for row in rows if row["dim"] == 16]) == score.value
    page = (out / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 2
    assert "http" not in page.replace("http-equiv", "")
    assert {path.name for path in out.iterdir()} == {
        *("report.md", "report.html", "results.jsonl", "queries.jsonl", "rankings.jsonl"),
        *("dimensions.png", "differences.png"),
    }


def test_all_dims_and_metrics_come_from_one_encoding(folder, tmp_path, monkeypatch):
    rows = {"speech": [], "text": []}

    def counted(kind, run):
        def call(self, items, **options):
            rows[kind].append(len(items))
            return run(self, items, **options)

        return call

    monkeypatch.setattr(Encoder, "speech", counted("speech", Encoder.speech))
    monkeypatch.setattr(Encoder, "text", counted("text", Encoder.text))
    batches = []
    inner = batching.run_batches

    def count_rows(*arguments, **options):
        for batch, vectors in inner(*arguments, **options):
            batches.append(len(batch))
            yield batch, vectors

    monkeypatch.setattr(batching, "run_batches", count_rows)
    report_retrieval(folder, folder.parent / "test", tmp_path / "report", dims=(32, 16, 8))
    assert rows == {"speech": [10], "text": [25]}
    assert sum(batches) == 10 + 25


@pytest.mark.parametrize("kind", ["exists", "file", "foreign"])
def test_a_place_that_cannot_be_written_is_told_before_encoding(
    folder, tmp_path, monkeypatch, kind
):
    def never(self, *items, **options):
        raise AssertionError("encoded in vain")

    monkeypatch.setattr(Encoder, "speech", never)
    monkeypatch.setattr(Encoder, "text", never)
    out, overwrite = tmp_path / "report", False
    if kind == "exists":
        out.mkdir()
        (out / "results.jsonl").write_text("{}")
    elif kind == "file":
        (tmp_path / "plain").write_text("a")
        out = tmp_path / "plain" / "report"
    else:  # Somebody's own folder is never replaced.
        out.mkdir()
        (out / "thesis.tex").write_text("a")
        overwrite = True
    with pytest.raises(MrlError, match=r"exists already|could not be written|something else"):
        report_retrieval(folder, folder.parent / "test", out, overwrite=overwrite)
    assert kind == "file" or len(list(out.iterdir())) == 1


def test_a_dim_that_was_not_trained_is_warned_of(embedder, folder):
    with pytest.warns(UserWarning, match="dim 12 is not among those trained: 32, 16, 8"):
        assert chosen_dims(embedder, [12, 8]) == (12, 8)
    with pytest.raises(MrlError, match=r"--dims: the dimension 33 is not of this model"):
        chosen_dims(embedder, [33])
    data = read_retrieval_set(folder.parent / "test")
    with pytest.warns(UserWarning, match="dim 5"):
        (result,) = run_retrieval(embedder, data, dims=[5]).results
    assert result.dim == 5


def test_written_queries_are_clustered_by_words_and_speakers(embedder, tmp_path):
    queries = [
        Query(id=f"q{i}", text="ba ce" if i % 2 else f"di {'fo ' * i}", speaker=speaker)
        for i, speaker in enumerate(["a", "a", "b", None, "b"])
    ]
    qrels = {f"q{i}": {"d0": 1} for i in range(4)}
    corpus = [Document(id="d0", text="ba ce"), Document(id="d1", text="gu")]
    data = write_retrieval_set(tmp_path / "set", queries, corpus, qrels)
    clusters = clusters_of(data, judgements_of(data))
    assert len(set(clusters.texts)) == 3
    assert len(set(clusters.speakers)) == 3
    run = run_retrieval(embedder, data)
    assert run.clusters == clusters
    assert len(run.results[0].per_query["map@5"]) == 4


def scores_of(report: Path) -> dict[int, float]:
    rows = read_records(report / "results.jsonl")
    return {r.dim: r.value for r in rows if r.metric == "ndcg@10" and r.dim}


@pytest.mark.parametrize("spoken", [True, False])
def test_a_prompt_stands_before_every_query(folder, embedder, tmp_path, spoken, capsys):
    data = read_retrieval_set(folder.parent / "test")
    if not spoken:
        texts = {document.id: document.text for document in data.corpus}
        found = [next(iter(data.qrels[query.id])) for query in data.queries]
        queries = [Query(id=f"q{i}", text=texts[key]) for i, key in enumerate(found)]
        qrels = {f"q{i}": {key: 1} for i, key in enumerate(found)}
        data = write_retrieval_set(tmp_path / "written", queries, data.corpus, qrels)
    place = folder.parent / "test" if spoken else tmp_path / "written"

    def vectors(**said: str) -> np.ndarray:
        if spoken:
            return embedder.embed_speech([q.audio for q in data.queries], **said)
        return embedder.embed_text([q.text for q in data.queries], **said)

    documents = embedder.embed_text([document.text for document in data.corpus])
    command = ("retrieval", "--model", folder, "--data", place, "--dims", 32, "--out")
    found = {}
    for name, words, message in (
        ("plain", (), "No prompt stands before the queries."),
        ("task", ("--task", "find"), 'Before the queries stands "ba ce\\nQuery:".'),
        ("prompt", ("--prompt", "gu gu gu"), 'Before the queries stands "gu gu gu".'),
    ):
        assert evaluate(*command, tmp_path / name, *words) == 0
        assert message in (tmp_path / name / "report.md").read_text()
        said = dict(zip((w.strip("-") for w in words[::2]), words[1::2], strict=True))
        (expected,) = evaluate_retrieval(vectors(**said), documents, judgements_of(data), dims=[32])
        found[name] = scores_of(tmp_path / name)[32]
        assert found[name] == pytest.approx(expected.means["ndcg@10"])
    assert len(set(found.values())) == 3
    capsys.readouterr()
    for words, message in (
        (("--task", "sing"), "no prompt for 'sing', only for find"),
        (("--task", "find", "--prompt", "ba"), "a task brings its own prompt"),
    ):
        assert evaluate(*command, tmp_path / "none", *words) == 2
        assert message in capsys.readouterr().err


def test_a_set_may_bring_its_own_prompts(folder, tmp_path):
    data = read_retrieval_set(folder.parent / "test")
    queries = [dataclasses.replace(query, prompt="gu gu gu") for query in data.queries]
    own = write_retrieval_set(tmp_path / "own", queries, data.corpus, data.qrels)
    assert own.queries[3].prompt == "gu gu gu"
    assert digest_retrieval_set(own) != digest_retrieval_set(data)
    report_retrieval(folder, tmp_path / "own", tmp_path / "a")
    report_retrieval(folder, folder.parent / "test", tmp_path / "b", prompt="gu gu gu")
    report_retrieval(folder, tmp_path / "own", tmp_path / "c", prompt="")
    report_retrieval(folder, folder.parent / "test", tmp_path / "d")
    assert scores_of(tmp_path / "a") == scores_of(tmp_path / "b")
    assert scores_of(tmp_path / "c") == scores_of(tmp_path / "d") != scores_of(tmp_path / "a")


def damaged(data: Path, tmp_path: Path, table: str, line: str) -> Path:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    with (copy / f"{table}.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    return copy


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("qrels", '{"query-id": "q0", "corpus-id": "dX", "score": 1}', "dX"),
        ("qrels", '{"query-id": "qX", "corpus-id": "d0", "score": 1}', "qX"),
        ("corpus", '{"_id": "d0", "text": "ba"}', "d0"),
        ("corpus", '{"_id": "d99", "text": ""}', "d99|text"),
        ("queries", "{not json", "JSON"),
    ],
)
def test_eval_refuses_a_damaged_set(folder, tmp_path, capsys, table, line, message):
    data = damaged(folder.parent / "test", tmp_path, table, line)
    out = tmp_path / "report"
    assert evaluate("retrieval", "--model", folder, "--data", data, "--out", out) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert len(lines) == 1
    assert any(word in lines[0] for word in message.split("|"))
    assert not out.exists()


def test_a_broken_recording_is_fatal_where_it_counts(folder, tmp_path, capsys):
    asked = '{"_id": "q99", "audio": "broken.wav"}'
    data = damaged(folder.parent / "test", tmp_path, "queries", asked)
    (data / "broken.wav").write_bytes(b"RIFF")
    arguments = ("retrieval", "--model", folder, "--data", data, "--out")
    assert evaluate(*arguments, tmp_path / "unjudged") == 0
    report = (tmp_path / "unjudged" / "report.md").read_text()
    assert "1 more without a relevant document are left out" in report
    assert "q99" not in (tmp_path / "unjudged" / "rankings.jsonl").read_text()
    with (data / "qrels.jsonl").open("a") as qrels:
        qrels.write('{"query-id": "q99", "corpus-id": "d0", "score": 1}\n')
    capsys.readouterr()
    assert evaluate(*arguments, tmp_path / "judged") == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert len(errors) == 1
    assert "broken.wav" in errors[0] or "q99" in errors[0]
    assert not (tmp_path / "judged").exists()


def test_eval_refuses_wrong_arguments(folder, tmp_path, capsys):
    data = folder.parent / "test"
    for words, message in (
        (["retrieval", "--model", tmp_path, "--data", data], "model.json: no such file"),
        (["retrieval", "--model", folder, "--data", tmp_path], "queries"),
        (["retrieval", "--model", folder, "--data", data, "--dims", "64"], "dimension 64"),
        (["retrieval", "--model", folder, "--data", data, "--dims", "a"], "--dims is 'a'"),
        (["retrieval", "--model", folder], "--data"),
        (["retreival"], "retreival"),
    ):
        assert evaluate(*words) == 2
        assert message in capsys.readouterr().err


def test_one_query_has_scores_and_no_intervals(folder, tmp_path):
    data = tmp_path / "set"
    query = Query(id="q", text="ba")
    write_retrieval_set(data, [query], [Document(id="d", text="ba")], {"q": {"d": 1}})
    table = report_retrieval(folder, data, tmp_path / "report")
    assert "| 32 | 1.0000 | 1.0000 |" in table
    record = read_records(tmp_path / "report" / "results.jsonl")[0]
    assert (record.value, record.n, record.low, record.high) == (1, 1, None, None)


def test_vectors_that_are_not_finite_are_told_and_leave_no_report(folder, tmp_path, monkeypatch):
    inner = Encoder.text

    def spoilt(self, texts, **options):
        vectors = inner(self, texts, **options)
        vectors[3, 1] = np.nan
        return vectors

    monkeypatch.setattr(Encoder, "text", spoilt)
    with pytest.raises(MrlError, match="the vector of document 'd3' is not finite"):
        report_retrieval(folder, folder.parent / "test", tmp_path / "report")
    assert list(tmp_path.iterdir()) == []
