"""`mrl-jax eval retrieval`, end to end on a tiny model whose head is random."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from eval_reports import evaluate, json_lines, names_in, refused, report_retrieval
from tiers import mostly_slow

import mrl_jax
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.digests import digest_retrieval_set
from mrl_jax.data.sets.retrieval_set import Document, Query, read_retrieval_set, write_retrieval_set
from mrl_jax.evaluation.encoded_set import chosen_dims, clusters_of
from mrl_jax.evaluation.report.records import read_records, read_source
from mrl_jax.evaluation.retrieval.report import run_retrieval
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.inference import batching
from mrl_jax.inference.encoder import Encoder

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def embedder(late_fusion, compiled):
    return mrl_jax.Embedder.load(late_fusion)


def test_eval_retrieval_writes_a_report(late_fusion, retrieval_set, tmp_path, capsys):
    data, out = retrieval_set, tmp_path / "report"
    assert evaluate("retrieval", "--model", late_fusion, "--data", data, "--out", out) == 0
    table = capsys.readouterr().out
    assert "| 32 |" in table
    assert "nDCG@10 of chance" in table
    rows = json_lines(out / "results.jsonl")
    by_dim = {row["dim"]: row["value"] for row in rows if row["metric"] == "ndcg@10"}
    assert set(by_dim) == {32, 16, 8}
    assert f"{by_dim[32]:.4f}" in table
    chance = next(row["value"] for row in rows if row["metric"] == "ndcg@10 of chance")
    assert chance == pytest.approx(sum(1 / np.log2(rank + 2) for rank in range(10)) / 25)
    rankings = json_lines(out / "rankings.jsonl")
    assert len(rankings) == 10
    # The ranking is that of the embeddings themselves.
    embedder = mrl_jax.Embedder.load(late_fusion)
    corpus = json_lines(data / "corpus.jsonl")
    documents = embedder.embed_text([row["text"] for row in corpus])
    query = embedder.embed_speech([data / "q0.wav"])
    best = corpus[int(np.argmax(documents @ query[0]))]["_id"]
    first = next(row for row in rankings if row["query"] == "q0")
    assert first["top"][0]["id"] == best
    assert {"report.md", "dimensions.png"} <= names_in(out)
    words = ["retrieval", "--model", late_fusion, "--data", data, "--out", out]
    assert "the output exists already" in refused(capsys, *words, "--dims", "16")
    options = ("--dims", "16", "--ks", "3", "--ties", "id", "--binary")
    assert evaluate(*words, "--overwrite", *options) == 0
    assert "| 32 |" not in capsys.readouterr().out
    names = {record.metric for record in read_records(out / "results.jsonl")}
    assert {"ndcg@3", "map@3", "recall@3 over ties, worst", "ndcg@3 of chance"} <= names
    assert "ndcg@10" not in names


def test_a_report_holds_every_value_with_its_interval_and_source(
    late_fusion, retrieval_set, tmp_path
):
    data, out = retrieval_set, tmp_path / "report"
    table = report_retrieval(late_fusion, data, out)
    records = read_records(out / "results.jsonl")
    score = next(r for r in records if (r.metric, r.dim) == ("ndcg@10", 16))
    assert score.n == 10
    assert score.low is not None
    assert score.high is not None
    assert score.low <= score.value <= score.high
    assert f"{score.value:.4f} ({score.low:.2f} to {score.high:.2f})" in table
    pairs = [(r.dim, r.setting["other_dim"]) for r in records if r.metric.endswith("difference")]
    assert pairs == [(16, 32), (8, 16), (8, 32)]
    source = read_source(out / "results.jsonl")
    assert (source.data, source.model) == (str(data), str(late_fusion))
    assert len(source.data_digest) == len(source.model_digest) == 64
    rows = json_lines(out / "queries.jsonl")
    assert len(rows) == 30
    assert np.mean([row["ndcg@10"] for row in rows if row["dim"] == 16]) == score.value
    page = (out / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 2
    assert "http" not in page.replace("http-equiv", "")
    assert names_in(out) == {
        *("report.md", "report.html", "results.jsonl", "queries.jsonl", "rankings.jsonl"),
        *("dimensions.png", "differences.png"),
    }


def test_all_dims_and_metrics_come_from_one_encoding(
    late_fusion, retrieval_set, tmp_path, monkeypatch, encoded
):
    batches = []
    inner = batching.run_batches

    def count_rows(*arguments, **options):
        for batch, vectors in inner(*arguments, **options):
            batches.append(len(batch))
            yield batch, vectors

    monkeypatch.setattr(batching, "run_batches", count_rows)
    report_retrieval(late_fusion, retrieval_set, tmp_path / "report", dims=(32, 16, 8))
    assert {kind: [*map(len, calls)] for kind, calls in encoded.items()} == {
        "speech": [10],
        "text": [25],
    }
    assert sum(batches) == 10 + 25


@pytest.mark.usefixtures("no_encoding")
@pytest.mark.parametrize("kind", ["exists", "file", "foreign"])
def test_a_place_that_cannot_be_written_is_refused_before_encoding(
    late_fusion, retrieval_set, tmp_path, kind
):
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
        report_retrieval(late_fusion, retrieval_set, out, overwrite=overwrite)
    assert kind == "file" or len(list(out.iterdir())) == 1


def test_a_dim_that_was_not_trained_gives_a_warning(embedder, retrieval_set):
    with pytest.warns(UserWarning, match="dim 12 is not among those trained: 32, 16, 8"):
        assert chosen_dims(embedder, [12, 8]) == (12, 8)
    with pytest.raises(MrlError, match=r"--dims: the dimension 33 is not of this model"):
        chosen_dims(embedder, [33])
    data = read_retrieval_set(retrieval_set)
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
    assert clusters.speakers is not None
    assert len(set(clusters.speakers)) == 3
    run = run_retrieval(embedder, data)
    assert run.clusters == clusters
    assert len(run.results[0].per_query["map@5"]) == 4


def scores_of(report: Path) -> dict[int, float]:
    rows = read_records(report / "results.jsonl")
    return {r.dim: r.value for r in rows if r.metric == "ndcg@10" and r.dim}


@pytest.mark.parametrize("spoken", [True, False])
def test_a_prompt_stands_before_every_query(
    late_fusion, retrieval_set, embedder, tmp_path, spoken, capsys
):
    data = read_retrieval_set(retrieval_set)
    if not spoken:
        texts = {document.id: document.text for document in data.corpus}
        answers = [next(iter(data.qrels[query.id])) for query in data.queries]
        queries = [Query(id=f"q{i}", text=texts[key]) for i, key in enumerate(answers)]
        qrels = {f"q{i}": {key: 1} for i, key in enumerate(answers)}
        data = write_retrieval_set(tmp_path / "written", queries, data.corpus, qrels)
    place = retrieval_set if spoken else tmp_path / "written"

    def vectors(**prompt: str) -> np.ndarray:
        if spoken:
            return embedder.embed_speech([q.audio for q in data.queries], **prompt)
        return embedder.embed_text([q.text for q in data.queries], **prompt)

    documents = embedder.embed_text([document.text for document in data.corpus])
    command = ("retrieval", "--model", late_fusion, "--data", place, "--dims", 32, "--out")
    scores = {}
    for name, words, message in (
        ("plain", (), "No prompt stands before the queries."),
        ("task", ("--task", "find"), 'Before the queries stands "ba ce\\\\nQuery:".'),
        ("prompt", ("--prompt", "gu gu gu"), 'Before the queries stands "gu gu gu".'),
    ):
        assert evaluate(*command, tmp_path / name, *words) == 0
        assert message in (tmp_path / name / "report.md").read_text()
        prompt = dict(zip((w.strip("-") for w in words[::2]), words[1::2], strict=True))
        (expected,) = evaluate_retrieval(
            vectors(**prompt), documents, judgements_of(data), dims=[32]
        )
        scores[name] = scores_of(tmp_path / name)[32]
        setting = read_records(tmp_path / name / "results.jsonl")[0].setting
        assert {key: setting[key] for key in ("task", "prompt") if key in setting} == prompt
        assert scores[name] == pytest.approx(expected.means["ndcg@10"])
    assert len(set(scores.values())) == 3
    capsys.readouterr()
    for words, message in (
        (("--task", "sing"), "no prompt for 'sing', only for find"),
        (("--task", "find", "--prompt", "ba"), "a task brings its own prompt"),
    ):
        assert message in refused(capsys, *command, tmp_path / "none", *words)


def test_a_set_may_bring_its_own_prompts(late_fusion, retrieval_set, tmp_path):
    data = read_retrieval_set(retrieval_set)
    queries = [dataclasses.replace(query, prompt="gu gu gu") for query in data.queries]
    own = write_retrieval_set(tmp_path / "own", queries, data.corpus, data.qrels)
    assert own.queries[3].prompt == "gu gu gu"
    assert digest_retrieval_set(own) != digest_retrieval_set(data)
    report_retrieval(late_fusion, tmp_path / "own", tmp_path / "a")
    report_retrieval(late_fusion, retrieval_set, tmp_path / "b", prompt="gu gu gu")
    report_retrieval(late_fusion, tmp_path / "own", tmp_path / "c", prompt="")
    report_retrieval(late_fusion, retrieval_set, tmp_path / "d")
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
        ("qrels", '{"query-id": "q0", "corpus-id": "dX", "score": 0.5}', "score"),
        ("corpus", '{"_id": "d0", "text": "another text"}', "d0"),
        ("queries", "[" * 100_000, "nested too deeply"),
        ("queries", "{not json", "JSON"),
    ],
)
def test_eval_refuses_a_damaged_set(
    late_fusion, retrieval_set, tmp_path, capsys, table, line, message
):
    data = damaged(retrieval_set, tmp_path, table, line)
    out = tmp_path / "report"
    line = refused(capsys, "retrieval", "--model", late_fusion, "--data", data, "--out", out)
    assert any(word in line for word in message.split("|"))
    assert not out.exists()


ISSUES = {
    '{"query-id": "q0", "corpus-id": "dX", "score": 1}': "corpus-ids that corpus does not have: 1",
    '{"query-id": "qX", "corpus-id": "d0", "score": 1}': "query-ids that queries does not have: 1",
    '{"_id": "d99", "text": ""}': "documents without text: 1 ('d99')",
}


@pytest.mark.parametrize("line", mostly_slow(ISSUES))
def test_issues_are_in_the_report_and_fatal_if_strict(
    late_fusion, retrieval_set, tmp_path, capsys, line
):
    data = damaged(retrieval_set, tmp_path, "qrels" if "query-id" in line else "corpus", line)
    arguments = ("retrieval", "--model", late_fusion, "--data")
    refusal = refused(capsys, *arguments, data, "--out", tmp_path / "strict", "--strict")
    assert ISSUES[line] in refusal
    assert not (tmp_path / "strict").exists()
    assert evaluate(*arguments, data, "--out", tmp_path / "report") == 0
    page = (tmp_path / "report" / "report.md").read_text().replace("\\", "")
    assert "What is wrong with the set: " in page
    assert ISSUES[line] in page
    sound = ("--out", tmp_path / "sound", "--strict")
    assert evaluate(*arguments, retrieval_set, *sound) == 0
    assert "What is wrong" not in (tmp_path / "sound" / "report.md").read_text()
    same = scores_of(tmp_path / "report") == scores_of(tmp_path / "sound")
    assert same is ("qX" in line)  # An absent relevant document, and an empty one, count.


def test_the_split_of_judgements_is_chosen(late_fusion, retrieval_set, tmp_path, capsys):
    shutil.copytree(retrieval_set, tmp_path / "data")
    (tmp_path / "data" / "qrels").mkdir()
    lines = (tmp_path / "data" / "qrels.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data" / "qrels.jsonl").unlink()
    for split, some in (("train", lines[:2]), ("dev", lines)):
        (tmp_path / "data" / "qrels" / f"{split}.jsonl").write_text("".join(some))
    arguments = ("retrieval", "--model", late_fusion, "--data", tmp_path / "data", "--out")
    assert "the splits dev, train" in refused(capsys, *arguments, tmp_path / "a")
    assert evaluate(*arguments, tmp_path / "b", "--qrels-split", "dev") == 0
    report_retrieval(late_fusion, retrieval_set, tmp_path / "c")
    assert scores_of(tmp_path / "b") == scores_of(tmp_path / "c")
    of_split, of_all = (read_records(tmp_path / name / "results.jsonl")[0] for name in "bc")
    assert dict(of_split.setting) == {**of_all.setting, "split": "dev"}


def test_a_broken_recording_is_fatal_where_it_counts(late_fusion, retrieval_set, tmp_path, capsys):
    query = '{"_id": "q99", "audio": "broken.wav"}'
    data = damaged(retrieval_set, tmp_path, "queries", query)
    (data / "broken.wav").write_bytes(b"RIFF")
    arguments = ("retrieval", "--model", late_fusion, "--data", data, "--out")
    assert evaluate(*arguments, tmp_path / "unjudged") == 0
    report = (tmp_path / "unjudged" / "report.md").read_text()
    assert "which no score counts: 1 ('q99')" in report.replace("\\", "")
    assert "q99" not in (tmp_path / "unjudged" / "rankings.jsonl").read_text()
    with (data / "qrels.jsonl").open("a") as qrels:
        qrels.write('{"query-id": "q99", "corpus-id": "d0", "score": 1}\n')
    capsys.readouterr()
    line = refused(capsys, *arguments, tmp_path / "judged")
    assert "broken.wav" in line or "q99" in line
    assert not (tmp_path / "judged").exists()


def test_eval_refuses_wrong_arguments(late_fusion, retrieval_set, tmp_path, capsys):
    data = retrieval_set
    for words, message in (
        (["retrieval", "--model", tmp_path, "--data", data], "model.json: no such file"),
        (["retrieval", "--model", late_fusion, "--data", tmp_path], "queries"),
        (["retrieval", "--model", late_fusion, "--data", data, "--dims", "64"], "dimension 64"),
        (["retrieval", "--model", late_fusion, "--data", data, "--dims", "a"], "--dims is 'a'"),
        (["retrieval", "--model", late_fusion], "--data"),
        (["retreival"], "retreival"),
    ):
        assert message in refused(capsys, *words)


def test_one_query_has_scores_and_no_intervals(late_fusion, tmp_path):
    data = tmp_path / "set"
    query = Query(id="q", text="ba")
    write_retrieval_set(data, [query], [Document(id="d", text="ba")], {"q": {"d": 1}})
    table = report_retrieval(late_fusion, data, tmp_path / "report")
    assert "| 32 | 1.0000 | 1.0000 |" in table
    record = read_records(tmp_path / "report" / "results.jsonl")[0]
    assert (record.value, record.n, record.low, record.high) == (1, 1, None, None)


def test_vectors_that_are_not_finite_leave_no_report(
    late_fusion, retrieval_set, tmp_path, monkeypatch
):
    inner = Encoder.text

    def spoilt(self, texts, **options):
        vectors = inner(self, texts, **options)
        vectors[3, 1] = np.nan
        return vectors

    monkeypatch.setattr(Encoder, "text", spoilt)
    with pytest.raises(MrlError, match="the vector of document 'd3' is not finite"):
        report_retrieval(late_fusion, retrieval_set, tmp_path / "report")
    assert list(tmp_path.iterdir()) == []
