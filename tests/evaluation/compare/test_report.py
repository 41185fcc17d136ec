"""`mrl-jax eval compare` on tiny models of random heads, and dual encoders in every report."""

import json
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from eval_reports import evaluate, json_lines, names_in, refused, report_compare

import mrl_jax
from mrl_jax.checkpoints.models import read_model_info
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.retrieval_set import Document, Query, read_retrieval_set, write_retrieval_set
from mrl_jax.evaluation.compare.figures import system_records
from mrl_jax.evaluation.compare.systems import Cost, System, system_differences, system_means
from mrl_jax.evaluation.encoded_set import REPEATS, time_query
from mrl_jax.evaluation.report.records import read_records
from mrl_jax.evaluation.retrieval.report import run_retrieval
from mrl_jax.inference.search.vectors import SeparateVectors
from mrl_jax.metrics.intervals import Clusters
from mrl_jax.nn import param_tree

pytestmark = pytest.mark.usefixtures("compiled")
CLIPS = [(tiny_run.clip_of((i, (i + 2) % 5), i), tiny_run.RATE) for i in range(3)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Late fusion (model), a dual encoder (dual) and a nested one over the same towers."""
    root = tmp_path_factory.mktemp("models")
    tiny_run.make_retrieval_set(root / "test")
    tiny_run.make_model(root)
    tiny_run.make_dual_encoder(root)
    tiny_run.make_dual_encoder(root, nested=True, name="nested")
    return root


def test_systems_are_compared_from_one_encoding_each(root, tmp_path, encoded, capsys):
    out, names = tmp_path / "report", ("late", "dual", "nested")
    folders = (root / "model", root / "dual", root / "nested")
    models = [f"{name}={folder}" for name, folder in zip(names, folders, strict=True)]
    words = ["compare", "--models", *models, "--data", root / "test", "--out", out]
    assert evaluate(*words) == 0
    table = capsys.readouterr().out
    counts = {kind: [*map(len, calls)] for kind, calls in encoded.items()}
    assert counts == {"speech": [10] * 3, "text": [25]}
    assert names_in(out) == {
        *("report.md", "report.html", "results.jsonl", "queries.jsonl", "systems.png")
    }
    records = read_records(out / "results.jsonl")
    by_key = {(r.setting.get("system"), r.metric, r.dim): r for r in records}
    queries = json_lines(out / "queries.jsonl")
    assert len(queries) == 3 * 3 * 10
    data = read_retrieval_set(root / "test")
    for name, folder in list(zip(names, folders, strict=True))[:2]:
        embedder = mrl_jax.Embedder.load(folder)
        alone = run_retrieval(embedder, data, ks=(5, 10)).results
        for result in alone:
            for metric in ("ndcg@5", "ndcg@10"):
                record = by_key[name, metric, result.dim]
                assert record.value == result.means[metric]
                assert record.low is not None
                assert record.high is not None
                assert record.low <= record.value <= record.high
                of = [q[metric] for q in queries if (q["system"], q["dim"]) == (name, result.dim)]
                np.testing.assert_array_equal(of, result.per_query[metric])
        assert f"| {name} | {by_key[name, 'ndcg@10', 32].value:.4f} (" in table
        trained = param_tree.count(param_tree.flatten(embedder.encoder.trained))
        assert by_key[name, "trained parameters", None].value == trained
        whole = sum(
            leaf.get_value().size for leaf in param_tree.flat_weights(embedder.model).values()
        )
        assert by_key[name, "parameters", None].value == whole > trained
        assert by_key[name, "seconds a query", None].value > 0
        assert by_key[name, "bytes a document", 16].value == 64
    # Frames of two layers of 32, and a bias: the query, then a layer a dim.
    assert by_key["dual", "trained parameters", None].value == 64 + 65 * (32 + 16 + 8)
    assert by_key["nested", "trained parameters", None].value == 64 + 65 * 32
    # Late fusion puts speech through the text tower as well.
    flops = {name: by_key[name, "flops a query", None].value for name in names}
    assert flops["late"] > 1.2 * flops["dual"] > flops["nested"] > 0
    pairs = [r for r in records if r.metric == "ndcg@10 difference"]
    assert len(pairs) == 3 * 3
    first = pairs[0]
    assert (first.dim, first.setting["system"], first.setting["other_system"]) == (
        32,
        "late",
        "dual",
    )
    means = [by_key[name, "ndcg@10", 32].value for name in ("late", "dual")]
    assert first.value == pytest.approx(means[0] - means[1], abs=1e-12)
    assert all(float(r.setting["p_adjusted"]) >= float(r.setting["p_value"]) for r in pairs)
    report = (out / "report.md").read_text()
    for message in ("dual encoder, nested", "32 (128 bytes)", "FLOPs a query", "late - dual"):
        assert message in report
    assert "the output exists already" in refused(capsys, *words)
    words = ["compare", "--model", root / "dual", *words[5:], "--overwrite", "--dims", "16"]
    assert evaluate(*words) == 0
    assert "32 (128" not in (out / "report.md").read_text()


@pytest.mark.usefixtures("no_encoding")
def test_what_cannot_be_compared_is_refused(root, tmp_path, capsys):
    def message_of(*words: object) -> str:
        return refused(capsys, "compare", *words)

    other = tiny_run.make_dual_encoder(root, dims=(32, 8), name="other dims")
    foreign = tmp_path / "foreign"
    speech, text = tiny_run.make_towers(foreign / "towers", seed=5)
    assert speech.is_dir()
    assert text.is_dir()
    elsewhere = tiny_run.make_dual_encoder(foreign)
    model, out = root / "model", tmp_path / "out"
    ends = ("--data", root / "test", "--out", out)
    message = message_of("--models", f"a={model}", f"b={other}", *ends)
    assert "a has the dimensions 32,16,8 and b has 32,8" in message
    assert "Pass --dims 32,8" in message
    message = message_of("--models", f"a={model}", f"b={other}", *ends, "--dims", "32,16")
    assert "b has the dimensions 32, 8, not 16" in message
    message = message_of("--models", f"a={model}", f"b={elsewhere}", *ends)
    digests = [read_model_info(folder).text.digest[:12] for folder in (model, elsewhere)]
    assert "a and b have different text towers" in message
    assert all(digest in message for digest in digests)
    message = message_of("--models", f"a={model}", f"a={root / 'dual'}", *ends)
    assert "two systems are called 'a'" in message
    assert "=DIR" in message_of("--models", f"={model}", *ends)
    assert "no such file" in message_of("--models", f"a={tmp_path}", *ends)
    assert "is there twice" in message_of("--models", model, *ends, "--dims", "16,16")
    assert "--out" in message_of("--models", model, "--data", root / "test")
    assert not out.exists()


def test_a_system_may_be_something_else(tmp_path):
    """What joins as scores and a cost: here one beside itself, and one that is worse."""
    values = np.linspace(0.1, 0.9, 12)
    cost = Cost(parameters=10, trained=2, seconds=0.5, flops=float("nan"))

    def system(name: str, shift: float) -> System:
        scores = {8: {"ndcg@5": values, "ndcg@10": values - shift}}
        return System(name=name, kind="cascade", scores=scores, cost=cost)

    systems = [system("a", 0.0), system("same", 0.0), system("worse", 0.1)]
    clusters = Clusters(texts=list(range(12)))
    means, pairs = system_means(systems, clusters), system_differences(systems, clusters)
    by_pair = {(pair.name, pair.other): pair for pair in pairs}
    assert by_pair["a", "same"].test.difference == 0
    assert by_pair["a", "same"].test.p_value == 1
    worse = by_pair["a", "worse"]
    assert worse.test.difference == pytest.approx(0.1)
    assert worse.test.p_value < 0.01 < by_pair["a", "same"].p_adjusted
    records = system_records(systems, means, pairs)
    assert sum(record.metric == "flops a query" for record in records) == 3
    with pytest.raises(ValueError, match="different names"):
        system_means([systems[0], systems[0]], clusters)
    short = System(name="b", kind="", scores={8: {"ndcg@10": values}}, cost=cost)
    with pytest.raises(ValueError, match="the same dims"):
        system_means([systems[0], short], clusters)


def test_time_is_of_compiled_runs():
    calls = []
    assert time_query(lambda: calls.append(0)) < 1
    assert len(calls) == 1 + REPEATS


def test_flops_are_those_of_every_layer(root):
    """By the formula for a decoder, and more than XLA finds where layers are a loop."""
    embedder = mrl_jax.Embedder.load(root / "model")
    text, encoder = embedder.model.text.config, embedder.encoder
    counted = encoder.flops("ba ce di")
    tokens = 16  # Padded to that.
    heads, keys = text.num_heads * text.head_width, text.num_kv_heads * text.head_width
    weights = text.width * (2 * heads + 2 * keys + 3 * text.mlp_width)
    products = 2 * tokens * weights + 4 * tokens * tokens * heads
    assert text.num_layers * products < counted < 1.35 * text.num_layers * products
    parts = param_tree.split(embedder.model)
    inputs = np.zeros((1, tokens), np.int32), np.ones((1, tokens), bool)

    def looped(trained, frozen, *inputs):
        return parts.rebuild(trained, frozen).embed_text(*inputs)

    lowered = jax.jit(looped).lower(parts.trained, parts.frozen, *inputs)
    analysis = lowered.cost_analysis()
    assert analysis is not None
    assert analysis["flops"] < 0.7 * counted


def test_a_dual_encoder_gives_the_vector_of_each_dim(root):
    embedder = mrl_jax.Embedder.load(root / "dual")
    wide = embedder.encoder.speech([clip for clip, _ in CLIPS])
    assert isinstance(wide, SeparateVectors)
    starts = {32: 0, 16: 32, 8: 48}
    for dim, start in starts.items():
        vectors = embedder.embed_speech(CLIPS, dim=dim)
        np.testing.assert_allclose(vectors, wide.wide[:, start : start + dim], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert embedder.embed_text(["ba"], dim=dim).shape == (1, dim)
    np.testing.assert_array_equal(
        embedder.embed_speech(CLIPS), embedder.embed_speech(CLIPS, dim=32)
    )
    # They are no prefixes of one another, as those of a nested one are.
    prefix = embedder.embed_speech(CLIPS)[:, :8]
    prefix /= np.linalg.norm(prefix, axis=1, keepdims=True)
    assert np.abs(prefix - embedder.embed_speech(CLIPS, dim=8)).max() > 1e-2
    with pytest.raises(MrlError, match=r"no query vector for the dimension 12: .* 32, 16, 8"):
        embedder.embed_speech(CLIPS, dim=12)
    nested = mrl_jax.Embedder.load(root / "nested")
    prefix = nested.embed_speech(CLIPS)[:, :8]
    prefix /= np.linalg.norm(prefix, axis=1, keepdims=True)
    np.testing.assert_allclose(prefix, nested.embed_speech(CLIPS, dim=8), atol=1e-6)


def test_a_dual_encoder_narrower_than_its_text_tower(root):
    embedder = mrl_jax.Embedder.load(tiny_run.make_dual_encoder(root, dims=(8, 16), name="narrow"))
    assert embedder.embed_speech(CLIPS).shape == (3, 16)
    assert embedder.embed_text(["ba"]).shape == (1, 16)


@pytest.mark.parametrize("command", ["spectrum", "tradeoff"])
def test_reports_on_prefixes_refuse_separate_dims(root, tmp_path, capsys, command):
    words = ("--model", root / "dual", "--data", root / "test", "--out", tmp_path / "out")
    assert "separate query vectors for each dimension" in refused(capsys, command, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_other_reports_take_separate_dims(root, tmp_path):
    words = ("--model", root / "dual", "--data", root / "test", "--dims")
    assert evaluate("robustness", *words, "8", "--out", tmp_path / "robustness") == 0
    assert evaluate("retrieval", *words, "12", "--out", tmp_path / "retrieval") == 2
    lines = [
        {"audio": str(root / "test" / f"q{i}.wav"), "label": "ab"[i % 2], "split": split}
        for split in ("train", "test")
        for i in range(4)
    ]
    table = tmp_path / "intents.jsonl"
    table.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ("--model", root / "dual", "--data", table, "--shots", "0,2", "--seeds", "1")
    assert evaluate("intent", *words, "--out", tmp_path / "intent") == 0
    # Trained on just what is tested, a classifier knows it.
    records = read_records(tmp_path / "intent" / "results.jsonl")
    learnt = [r for r in records if r.metric == "accuracy" and r.setting.get("shots") == 2]
    assert {r.dim for r in learnt} == {32, 16, 8}
    assert all(r.value == 1 for r in learnt)


def test_written_queries_are_compared_too(root, tmp_path):
    queries = [Query(id=f"q{i}", text=text) for i, text in enumerate(("ba ce", "di", "fo gu"))]
    corpus = [Document(id=f"d{i}", text=text) for i, text in enumerate(("ba ce", "di", "fo gu"))]
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(3)}
    write_retrieval_set(tmp_path / "set", queries, corpus, qrels)
    models = [str(root / "model"), str(root / "dual")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = report_compare(models, tmp_path / "set", tmp_path / "out")
    assert "| model | 1.0000 (" in table
    assert "| dual | 1.0000 (" in table
    assert "9 characters" not in (tmp_path / "out" / "report.md").read_text()
    assert "5 characters" in (tmp_path / "out" / "report.md").read_text()


def test_an_unknown_kind_is_refused(root, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    fields = json.loads((root / "dual" / "model.json").read_text()) | {"kind": "clip"}
    del fields["sha256"]
    (folder / "model.json").write_text(json.dumps(fields))
    with pytest.raises(
        MrlError, match=r"'clip', expected 'late_fusion' or 'soft_ctc' or 'dual_encoder'"
    ):
        mrl_jax.Embedder.load(folder)
