"""What quality costs: the grid, the best of it, budgets, and the setting in the model's folder."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from damage import damaged
from eval_reports import evaluate, names_in, refused
from hypothesis import given, settings
from hypothesis import strategies as st

import mrl_jax
from mrl_jax.checkpoints.models import read_model_info
from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.report.records import read_records
from mrl_jax.evaluation.scoring import Judgements, evaluate_retrieval
from mrl_jax.evaluation.tradeoff import measure as tradeoff
from mrl_jax.evaluation.tradeoff.measure import (
    Budget,
    Measured,
    choose,
    grid,
    grow,
    measure,
    parse_budget,
)
from mrl_jax.inference.search.config import SearchConfig, read_search_config, write_search_config

pytestmark = pytest.mark.usefixtures("compiled")
RNG = np.random.default_rng(0)
DOCUMENTS = RNG.normal(size=(60, 16)).astype(np.float32)
QUERIES = (DOCUMENTS[:12] + 0.8 * RNG.normal(size=(12, 16))).astype(np.float32)
JUDGEMENTS = Judgements(
    [f"q{i}" for i in range(12)],
    [f"d{i}" for i in range(60)],
    {f"q{i}": {f"d{i}": 1, f"d{i + 20}": 0} for i in range(11)},
)


@pytest.fixture(autouse=True)
def few_timings(monkeypatch):
    monkeypatch.setattr(tradeoff, "TIMED", 2)


@given(
    st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=25),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_pareto(rows):
    costs = np.asarray(rows, np.float64)
    best = tradeoff.pareto(costs)

    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(np.all(a <= b) and np.any(a < b))

    assert best.any()
    for row, member in zip(costs, best, strict=True):
        assert member != any(dominates(other, row) for other in costs)
        # Who is beaten is beaten by a member.
        assert member or any(dominates(other, row) for other in costs[best])


def test_the_grid_measured():
    results = measure(QUERIES, DOCUMENTS, JUDGEMENTS, dims=(16, 4), corpus_size=90)
    assert [r.config for r in results] == grid((16, 4), tradeoff.usual_shortlist(60))
    by = {dataclasses.replace(r.config, shortlist=1): r for r in results}
    assert len(by) == len(results) == 4 * (2 + 1 + 1)
    for dim, expected in zip(
        (16, 4), evaluate_retrieval(QUERIES, DOCUMENTS, JUDGEMENTS, dims=(16, 4)), strict=True
    ):
        result = by[SearchConfig(dim=dim, shortlist=1)]
        np.testing.assert_allclose(result.ndcg, expected.per_query["ndcg@10"], atol=1e-12)
        assert result.bytes == 4 * dim
        assert result.flops == 2 * dim * 90
        assert result.latency_ms > 0
    assert by[SearchConfig(dim=16, shortlist=1)].recall == 1
    assert by[SearchConfig(dim=4, shortlist=1)].recall < 1
    projected = by[SearchConfig(dim=16, rank=4, precision="int8", shortlist=1)]
    assert (projected.bytes, projected.flops) == (4, 2 * 4 * 90 + 2 * 16 * 4)
    funnel = by[SearchConfig(dim=16, prefix=4, precision="binary", shortlist=1)]
    assert funnel.bytes == 1 + 2
    assert all(r.config.shortlist == 10 for r in results)


def test_a_longer_short_list_finds_more_and_works_more():
    def measured_with(shortlist: int) -> Measured:
        results = measure(QUERIES, DOCUMENTS, JUDGEMENTS, dims=(16, 4), shortlist=shortlist)
        wanted = SearchConfig(dim=16, prefix=4, shortlist=shortlist)
        return next(r for r in results if r.config == wanted)

    short, whole = measured_with(10), measured_with(60)
    assert short.recall < whole.recall == 1
    assert whole.flops - short.flops == 2 * 16 * 50


@pytest.mark.parametrize("limits", ["bytes=4", "flops=300", "bytes=3,flops=4000", "bytes=1"])
def test_a_budget_is_refused_early_where_it_would_be_later(limits):
    budget = parse_budget(limits)
    results = measure(QUERIES, DOCUMENTS, JUDGEMENTS, dims=(16, 4), shortlist=10)
    fits = any(budget.excess(r) <= 1 for r in results)
    try:
        tradeoff.check_budget(budget, (16, 4), shortlist=10, size=60, width=16)
    except MrlError:
        assert not fits
    else:
        assert fits


def test_a_projection_on_all_directions_changes_nothing():
    directions = tradeoff.directions_of(DOCUMENTS, 8, 8)
    a, b = (tradeoff.project(x, 8, directions) for x in (QUERIES, DOCUMENTS))
    c, d = (tradeoff.project(x, 8, None) for x in (QUERIES, DOCUMENTS))
    np.testing.assert_allclose(a @ b.T, c @ d.T, atol=1e-5)
    fewer = tradeoff.project(DOCUMENTS, 8, directions[:, :3])
    assert fewer.shape == (60, 3)
    np.testing.assert_allclose(np.linalg.norm(fewer, axis=1), 1, atol=1e-6)


def test_a_grown_corpus_begins_with_the_real_one():
    grown = grow(DOCUMENTS, 150)
    np.testing.assert_array_equal(grown[:60], DOCUMENTS)
    np.testing.assert_allclose(np.linalg.norm(grown[60:], axis=1), 1, atol=1e-6)
    assert len(np.unique(grown, axis=0)) == 150
    with pytest.raises(MrlError, match="the corpus size is 59, and the set has 60 documents"):
        grow(DOCUMENTS, 59)


def test_what_cannot_be_measured():
    with pytest.raises(MrlError, match="dimension 17 is not of this model"):
        measure(QUERIES, DOCUMENTS, JUDGEMENTS, dims=(17,))
    for spoilt, message in ((QUERIES.copy(), "query"), (DOCUMENTS.copy(), "document")):
        spoilt[3, 3] = np.nan
        pair = (spoilt, DOCUMENTS) if message == "query" else (QUERIES, spoilt)
        with pytest.raises(MrlError, match=f"the vector of {message} .* is not finite"):
            measure(*pair, JUDGEMENTS, dims=(16,))


def measured(ndcg: float, size: int, latency: float = 1.0) -> Measured:
    return Measured(
        config=SearchConfig(dim=size),
        ndcg=np.asarray([ndcg]),
        recall=1.0,
        bytes=size,
        flops=10 * size,
        latency_ms=latency,
    )


def test_budgets():
    assert parse_budget("bytes=128") == Budget({"bytes": 128.0})
    assert parse_budget("latency_ms=5, flops=1e6") == Budget({"latency_ms": 5.0, "flops": 1e6})
    results = [measured(0.9, 400), measured(0.7, 128), measured(0.7, 64), measured(0.5, 16, 9.0)]
    assert choose(results, parse_budget("bytes=400")) is results[0]
    assert choose(results, parse_budget("bytes=399")) is results[2]
    assert choose(results, parse_budget("flops=160")) is results[3]
    with pytest.raises(MrlError, match=r"nearest, 16 coordinates, fp32, has bytes=16"):
        choose(results, parse_budget("bytes=8"))
    with pytest.raises(MrlError, match=r"nearest, 64 coordinates.* has bytes=64, latency_ms=1"):
        choose(results, parse_budget("bytes=16,latency_ms=2"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("byte=1", "'byte' cannot be limited.*mean bytes"),
        ("latency=1", "mean latency_ms"),
        ("bytes", "the limit of bytes is ''"),
        ("bytes=few", "'few', expected a number above 0"),
        ("bytes=0", "'0', expected a number above 0"),
        ("flops=inf", "expected a number above 0"),
        ("bytes=1,bytes=2", "limited twice"),
    ],
)
def test_budgets_that_are_none(text, message):
    with pytest.raises(MrlError, match=message):
        parse_budget(text)


@pytest.fixture
def model(late_fusion, tmp_path) -> Path:
    """A copy, which may be given a search config."""
    shutil.copytree(late_fusion.parent, tmp_path / "models")
    return tmp_path / "models" / late_fusion.name


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_run.make_retrieval_set(tmp_path_factory.mktemp("set"), queries=5)


def test_eval_tradeoff_writes_a_report_and_the_search_config(model, data, tmp_path, capsys):
    out = tmp_path / "report"
    command = ("tradeoff", "--model", model, "--data", data, "--out", out, "--dims", "32,8")
    assert evaluate(*command, "--corpus-size", 40, "--budget", "bytes=8") == 0
    assert "Chosen for bytes=8" in capsys.readouterr().out
    assert {"report.md", "report.html", "results.jsonl", "tradeoff.png"} <= names_in(out)
    scores = [r for r in read_records(out / "results.jsonl") if r.metric == "ndcg@10"]
    assert len(scores) == 4 * 4
    bytes_of = [r for r in read_records(out / "results.jsonl") if r.metric == "bytes"]
    (chosen,) = [r for r in scores if r.setting["chosen"]]
    within = [r.value for r, b in zip(scores, bytes_of, strict=True) if b.value <= 8]
    assert chosen.value == max(within)
    embedder = mrl_jax.Embedder.load(model, search_config=True)
    setting = embedder.search_config
    assert setting is not None
    assert setting.precision == chosen.setting["precision"]
    vectors = embedder.embed_text(["ba ce", "di", "fo gu"])
    assert vectors.shape == (3, setting.width)
    assert embedder.quantize(vectors).search(vectors, 1).shape == (3, 1)
    assert json.loads((model / "search.json").read_text())["chosen"]["budget"] == "bytes=8"
    assert "exists already" in refused(capsys, *command)
    other = (*command[:5], "--out", tmp_path / "other")
    for words, message in (
        (("--corpus-size", "24"), "the corpus size is 24, and the set has 25"),
        (("--budget", "byts=3"), "mean bytes"),
        (("--dims", "64"), "64 is not of this model"),
        (("--dims", "8", "--budget", "bytes=0.5"), "the least of each is bytes=1"),
        (("--dims", "8", "--budget", "bytes=99,flops=1"), "the least of each is bytes=1, flops="),
        (("--dims", "8", "--budget", "latency_ms=1e-9"), "the nearest, 8 coordinates,"),
        (("--shortlist", "9"), "9, expected 10 or more"),
        (("--corpus-size", "999999999999"), "and this machine has"),
    ):
        assert message in refused(capsys, *other, *words)
        assert not (tmp_path / "other").exists()


def test_a_setting_is_of_one_head(model, tmp_path):
    folder = model
    for path in folder.glob("search*"):
        path.unlink()
    with pytest.raises(MrlError, match=r"no such file.*mrl-jax eval tradeoff"):
        mrl_jax.Embedder.load(folder, search_config=True)
    info = read_model_info(folder)
    plain = mrl_jax.Embedder.load(folder)
    assert plain.search_config is None
    with pytest.raises(MrlError, match="no search config was loaded"):
        plain.quantize(DOCUMENTS)
    whole = plain.embed_text(["ba ce", "di", "fo gu fo"])
    directions = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 4)))[0].astype(np.float32)
    setting = SearchConfig(dim=16, rank=4, precision="int8", shortlist=10)
    write_search_config(folder, info, setting, directions, {})
    embedder = mrl_jax.Embedder.load(folder, search_config=True)
    vectors = embedder.embed_text(["ba ce", "di", "fo gu fo"])
    expected = tradeoff.project(whole, 16, directions)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert embedder.embed_text(["ba"], dim=8).shape == (1, 8)
    assert embedder.quantize(vectors).bytes_per_document == 4
    spoken = embedder.embed_speech([(tiny_run.clip_of((1, 3), 5), tiny_run.RATE)])
    assert spoken.shape == (1, 4)
    (array,) = folder.glob("search-*.npy")
    kept = array.read_bytes()
    array.write_bytes(damaged(kept))
    with pytest.raises(MrlError, match="cannot be read as a search config"):
        read_search_config(folder, info)
    array.write_bytes(kept)
    with pytest.raises(MrlError, match=f"another head.*{info.head_digest[:12]}.*0123456789ab"):
        read_search_config(folder, dataclasses.replace(info, head_digest="0123456789abcdef"))
    # Another choice leaves nothing of this one.
    write_search_config(folder, info, SearchConfig(dim=8), None, {})
    assert {path.name for path in folder.glob("*search*")} == {"search.json"}
    assert read_search_config(folder, info) == (SearchConfig(dim=8), None)
    (folder / "search.json").write_text("{")
    with pytest.raises(MrlError, match="cannot be read as a search config"):
        read_search_config(folder, info)
