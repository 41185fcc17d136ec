"""Robustness: the parts on made vectors, and the report from end to end on a random head."""

from pathlib import Path

import numpy as np
import pytest
import tiny_run
from eval_reports import PAGES, json_lines, names_in, report_robustness

import mrl_jax
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.degrade import Condition
from mrl_jax.data.sets.retrieval_set import RetrievalSet, read_retrieval_set
from mrl_jax.evaluation.report.records import read_records
from mrl_jax.evaluation.robustness.figures import (
    plot_conditions,
    plot_snr,
    robustness_records,
    robustness_table,
)
from mrl_jax.evaluation.robustness.measure import (
    CLEAN,
    CONDITIONS,
    degrade_all,
    measure_robustness,
)
from mrl_jax.evaluation.robustness.report import run_robustness
from mrl_jax.evaluation.scoring import Judgements, evaluate_retrieval
from mrl_jax.inference.encoder import Encoder
from mrl_jax.metrics.intervals import Clusters

pytestmark = pytest.mark.usefixtures("compiled")
RATE = tiny_run.RATE
NOISES = [Condition(kind=kind, amount=snr) for kind in ("white", "babble") for snr in (0.0, 20.0)]
OTHERS = {"reverberation": 0.4, "telephone": None, "speed": 1.25, "length": 0.1}
FEW = (CLEAN, *NOISES, *(Condition(kind=kind, amount=amount) for kind, amount in OTHERS.items()))


@pytest.fixture
def embedder(two_dims, compiled):
    return mrl_jax.Embedder.load(two_dims)


CLIPS = [tiny_run.clip_of((i % 5, (i + 2) % 5), i) for i in range(5)]
NAMES = ["q3", "q10", "q1", "q2", "q0"]


@pytest.mark.parametrize("condition", FEW, ids=lambda c: c.title)
def test_neither_order_nor_company_changes_a_clip(condition):
    def by_name(rows: list[int]) -> dict[str, np.ndarray]:
        clips = degrade_all(
            [CLIPS[row] for row in rows],
            [NAMES[row] for row in rows],
            condition,
            sample_rate=RATE,
            apart=[row % 3 for row in rows],
        )
        return dict(zip((NAMES[row] for row in rows), clips, strict=True))

    whole, reordered = by_name([0, 1, 2, 3, 4]), by_name([3, 1, 4, 0, 2])
    for name, clip in whole.items():
        np.testing.assert_array_equal(clip, reordered[name])
    if condition.kind != "babble":
        np.testing.assert_array_equal(by_name([2])["q1"], whole["q1"])


def test_babble_is_of_those_who_ask_for_something_else():
    condition = Condition(kind="babble", amount=0.0)

    def worse(third: np.ndarray, apart: list[str]) -> np.ndarray:
        clips = [CLIPS[0], CLIPS[1], third]
        names = ["a", "b", "c"]
        return degrade_all(clips, names, condition, sample_rate=RATE, apart=apart)[0]

    same = [worse(clip, ["x", "y", "x"]) for clip in (CLIPS[2], CLIPS[3])]
    np.testing.assert_array_equal(same[0], same[1])
    apart = [worse(clip, ["x", "y", "z"]) for clip in (CLIPS[2], CLIPS[3])]
    assert np.abs(apart[0] - apart[1]).max() > 1e-3
    with pytest.raises(MrlError, match="babble takes at least one other clip"):
        worse(CLIPS[2], ["x", "x", "x"])


def test_a_clip_is_never_cut_below_what_the_model_takes():
    for kind, amount in (("length", 0.01), ("speed", 50.0)):
        condition = Condition(kind=kind, amount=amount)
        (clip,) = degrade_all(
            CLIPS[:1], ["a"], condition, sample_rate=RATE, apart=[0], min_samples=720
        )
        assert clip.size == 720
    (short,) = degrade_all(
        [CLIPS[0][:100]], ["a"], CLEAN, sample_rate=RATE, apart=[0], min_samples=720
    )
    assert short.size == 100  # That the set's own clip is too short is for the encoder to say.


def made(seed: int = 0, queries: int = 40, documents: int = 30, width: int = 16):
    """Documents at random, queries near their own; with noise they are less near."""
    rng = np.random.default_rng(seed)
    corpus = rng.normal(size=(documents, width)).astype(np.float32)
    answers = rng.integers(0, documents, queries)
    noise = rng.normal(size=(queries, width)).astype(np.float32)
    vectors = {
        condition: corpus[answers] + np.float32(level) * noise
        for condition, level in zip(FEW, np.linspace(0.4, 3.0, len(FEW)), strict=True)
    }
    ids, names = [f"d{i}" for i in range(documents)], [f"q{i}" for i in range(queries)]
    qrels = {name: {f"d{answer}": 1} for name, answer in zip(names, answers, strict=True)}
    return vectors, corpus, Judgements(names, ids, qrels), answers


def test_every_dim_and_condition_from_one_encoding_each():
    vectors, corpus, judgements, answers = made()
    clusters = Clusters(texts=answers.tolist())
    results = measure_robustness(vectors, corpus, judgements, clusters, dims=[16, 4])
    assert [(r.condition, r.dim) for r in results] == [(c, d) for c in FEW for d in (16, 4)]
    for result in results:
        (alone,) = evaluate_retrieval(
            vectors[result.condition], corpus, judgements, dims=[result.dim]
        )
        (clean,) = evaluate_retrieval(vectors[CLEAN], corpus, judgements, dims=[result.dim])
        values, base = (x.per_query["ndcg@10"] for x in (alone, clean))
        np.testing.assert_array_equal(result.per_query, values)
        assert result.interval.mean == pytest.approx(np.mean(values))
        assert result.change.mean == pytest.approx(np.mean(values - base))
        assert result.interval.low <= result.interval.mean <= result.interval.high
        if result.condition == CLEAN:
            assert (result.change.low, result.change.mean, result.change.high) == (0, 0, 0)
    first, last = results[0], results[-2]
    assert first.interval.mean > last.interval.mean + 0.2
    assert last.change.high < 0
    records = robustness_records(results, seed=3)
    assert len(records) == 2 * len(results)
    white = next(r for r in records if r.setting.get("snr_db") == 0.0)
    assert white.setting == {"condition": "white", "snr_db": 0.0, "seed": 3}
    assert (white.metric, white.dim, white.n) == ("ndcg@10", 16, 40)
    table = str(robustness_table(results)).splitlines()
    assert table[0] == "| condition | first 16 | first 4 |"
    assert len(table) == 2 + len(FEW)
    assert table[2].startswith(f"| clean | {first.interval.mean:.4f} [{first.interval.low:.4f}, ")


def test_figures_are_drawn(tmp_path):
    vectors, corpus, judgements, _ = made()
    clusters = Clusters(texts=judgements.query_ids)
    results = measure_robustness(vectors, corpus, judgements, clusters, dims=[16, 4])
    plot_snr(tmp_path / "snr.png", results, chance=0.1)
    plot_conditions(tmp_path / "conditions.png", results, chance=0.1)
    for name in ("snr.png", "conditions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_report_from_end_to_end(two_dims, six_queries, embedder, tmp_path, encoded):
    out = tmp_path / "report"
    table = report_robustness(two_dims, six_queries, out, conditions=FEW)
    assert {kind: len(calls) for kind, calls in encoded.items()} == {"speech": len(FEW), "text": 1}
    assert names_in(out) == PAGES | {"conditions.png", "snr.png"}
    report = (out / "report.md").read_text("utf-8")
    assert table in report
    assert "the same 6 spoken queries" in report
    assert "(snr.png)" in report
    records = read_records(out / "results.jsonl")
    assert len(records) == 2 * len(FEW) * 2 + 1
    clean = {
        record.dim: record.value
        for record in records
        if record.setting.get("condition") == "clean" and record.metric == "ndcg@10"
    }
    data = read_retrieval_set(six_queries)
    clips = [(tiny_run.clip_of(((7 * i) % 25 // 5, (7 * i) % 5), 1000 + i), RATE) for i in range(6)]
    vectors = embedder.embed_speech(clips)
    documents = embedder.embed_text([d.text for d in data.corpus])
    judgements = Judgements([q.id for q in data.queries], [d.id for d in data.corpus], data.qrels)
    for result in evaluate_retrieval(vectors, documents, judgements, dims=[32, 8]):
        assert clean[result.dim] == pytest.approx(result.means["ndcg@10"])
    # Loud noise is another input: something changed in at least one condition.
    changes = [r.value for r in records if r.metric.endswith("against clean")]
    assert any(changes)
    rows = json_lines(out / "results.jsonl")
    assert {row["data"] for row in rows} == {str(six_queries)}
    assert len({row["data_digest"] for row in rows}) == 1
    with pytest.raises(MrlError, match="exists already"):
        report_robustness(two_dims, six_queries, out, conditions=FEW[:1])
    table = report_robustness(two_dims, six_queries, out, conditions=FEW[:1], overwrite=True)
    assert len(table.splitlines()) == 3
    assert not (out / "snr.png").exists()


def test_the_order_of_the_set_changes_nothing(embedder, six_queries):
    data = read_retrieval_set(six_queries)
    reordered = RetrievalSet(queries=data.queries[::-1], corpus=data.corpus, qrels=data.qrels)
    few = [condition for condition in FEW if condition.kind in ("babble", "white")]
    plain, back = (run_robustness(embedder, x, conditions=few)[0] for x in (data, reordered))
    for a, b in zip(plain, back, strict=True):
        assert (a.condition, a.dim) == (b.condition, b.dim)
        np.testing.assert_allclose(a.per_query, b.per_query[::-1], atol=1e-9)


def test_the_default_conditions_are_those_of_the_issue():
    assert len(CONDITIONS) == len(set(CONDITIONS)) == 1 + 14 + 3 + 1 + 4 + 3
    assert CONDITIONS[0] == CLEAN


def spoil_written(folder: Path) -> None:
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "w", "text": "ba ce"}\n')


MISTAKES = {
    "empty corpus": (lambda f: (f / "corpus.jsonl").write_text(""), "table `corpus` is empty"),
    "no tables": (lambda f: (f / "qrels.jsonl").unlink(), "has no table `qrels`"),
    "written": (spoil_written, r"1 of 3 queries are written, the first is 'w'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_sets(mistake, two_dims, tmp_path):
    spoil, message = MISTAKES[mistake]
    folder = tiny_run.make_retrieval_set(tmp_path / "set", queries=2)
    spoil(folder)
    with pytest.raises(MrlError, match=message):
        report_robustness(two_dims, folder, tmp_path / "out", conditions=FEW[:2])
    assert not (tmp_path / "out").exists()


def test_babble_of_one_answer_is_refused_before_anything_is_encoded(
    two_dims, tmp_path, monkeypatch
):
    folder = tiny_run.make_retrieval_set(tmp_path / "set", queries=3)
    rows = [f'{{"query-id": "q{i}", "corpus-id": "d0"}}\n' for i in range(3)]
    (folder / "qrels.jsonl").write_text("".join(rows))
    report_robustness(two_dims, folder, tmp_path / "white", conditions=FEW[:1])
    monkeypatch.setattr(Encoder, "text", None)
    babble = [condition for condition in FEW if condition.kind == "babble"]
    with pytest.raises(MrlError, match="all 3 queries ask for the same"):
        report_robustness(two_dims, folder, tmp_path / "babble", conditions=babble)


def test_bad_names_and_dims(two_dims, six_queries, tmp_path):
    with pytest.raises(MrlError, match="Did you mean `fleurs:wo-fr`"):
        report_robustness(two_dims, "fleur:wo-fr", tmp_path / "out")
    with pytest.raises(MrlError, match="the dimension 64 is not of this model, expected 1 to 32"):
        report_robustness(two_dims, six_queries, tmp_path / "out", dims=[64])
    assert not (tmp_path / "out").exists()
