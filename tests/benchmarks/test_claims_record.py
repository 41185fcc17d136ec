"""What the claims benchmark makes of reports: arrays by query, differences, crossings, the page."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.claims_worlds.crossing import find_crossing
from benchmarks.claims_worlds.record import Measured, differences, pool
from benchmarks.claims_worlds.scores import Queries, mean_scores, read_queries, read_scores
from mrl_jax.data.sets.retrieval_set import Document, Query, write_retrieval_set
from mrl_jax.metrics.intervals import Clusters


def write_test_set(folder: Path) -> Path:
    """q0 and q1 have the same transcript, q1 and q2 the same document; q3 is alone."""
    said = ("a", "a", "b", "c")
    asked = ("d0", "d1", "d1", "d2")
    queries = [
        Query(id=f"q{i}", text=text, transcript=text, speaker=f"s{i % 2}")
        for i, text in enumerate(said)
    ]
    corpus = [Document(id=f"d{i}", text=f"text {i}") for i in range(3)]
    write_retrieval_set(folder, queries, corpus, {f"q{i}": {d: 1} for i, d in enumerate(asked)})
    return folder


def write_report(folder: Path, scores: dict[str, list[float]]) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {"system": system, "query": f"q{i}", "dim": dim, "ndcg@10": value / (96 // dim)}
        for system, values in scores.items()
        for dim in (96, 48)
        for i, value in reversed(list(enumerate(values)))
    ]
    (folder / "queries.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_queries_that_share_a_transcript_or_a_document_are_one_sentence(tmp_path: Path):
    queries = read_queries({"all": write_test_set(tmp_path / "test")})
    first, second, third, fourth = queries.clusters.texts
    assert first == second == third != fourth
    assert queries.clusters.speakers == ["s0", "s1", "s0", "s1"]


def test_parts_follow_one_another_and_seeds_are_averaged(tmp_path: Path):
    queries = read_queries({part: write_test_set(tmp_path / part) for part in ("one", "two")})
    seeds = []
    for seed in (0, 1):
        reports = {
            part: write_report(
                tmp_path / f"{part}-{seed}",
                {"soft": [seed, 0.5, place, 1.0], **({} if place else {"dual": [1, 1, 1, 1]})},
            )
            for place, part in enumerate(("one", "two"))
        }
        seeds.append(read_scores(reports, queries))
    means = mean_scores(seeds)
    assert list(means) == ["soft"]  # The other is not in every part.
    np.testing.assert_allclose(means["soft"][96], [0.5, 0.5, 0, 1, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(means["soft"][48], means["soft"][96] / 2)


def measured(gap: float, size: int, seed: int) -> Measured:
    rng = np.random.default_rng(seed)
    base = rng.random(size)
    clusters = Clusters(texts=list(range(size)), speakers=[f"s{i % 4}" for i in range(size)])
    keys = [("all", str(i)) for i in range(size)]
    scores = {
        "soft": {96: base + gap + 0.01 * rng.standard_normal(size)},
        "linear": {96: base},
        "cascade": {96: base},
    }
    return Measured(queries=Queries(keys=keys, clusters=clusters), scores=scores)


def test_the_pool_weighs_every_query_alike():
    one, other = measured(0.1, 30, 0), measured(-0.05, 60, 1)
    gaps = [w.scores["soft"][96] - w.scores["cascade"][96] for w in (one, other)]
    test = pool({"one": one, "other": other})["differences"]["soft"]["96"]
    assert test["difference"] == pytest.approx(np.concatenate(gaps).mean())
    assert test["low"] < test["difference"] < test["high"]
    alone = differences({"": one})["soft"]["96"]
    assert alone["difference"] == pytest.approx(gaps[0].mean())
    assert alone["low"] > 0
    assert differences({"": one})["linear"]["96"]["difference"] == 0


def conditions(gaps: list[float]) -> tuple[np.ndarray, ...]:
    """Word error rates of 10 %, 20 %, ... with these mean differences, in mixed order."""
    words = np.full((len(gaps), 40), 10.0)
    errors = np.repeat(np.arange(1.0, len(gaps) + 1)[:, None], 40, axis=1)
    spread = np.linspace(-0.01, 0.01, 40)
    order = np.random.default_rng(0).permutation(len(gaps))
    differences = np.asarray(gaps)[:, None] + spread
    return differences[order], errors[order], words[order]


def test_a_crossing_lies_on_the_straight_line_between_two_conditions():
    crossing = find_crossing(*conditions([-0.04, -0.02, 0.06]), clusters=list(range(40)))
    assert crossing.wer is not None
    assert crossing.wer == pytest.approx(0.2 + 0.1 * 0.02 / 0.08)
    assert crossing.low is not None
    assert crossing.high is not None
    assert crossing.low < crossing.wer < crossing.high
    assert crossing.without == 0


def test_a_difference_that_keeps_its_sign_has_no_crossing():
    crossing = find_crossing(*conditions([0.04, 0.05, 0.06]), clusters=list(range(40)))
    assert (crossing.wer, crossing.low, crossing.high) == (None, None, None)
    assert crossing.without == 1
