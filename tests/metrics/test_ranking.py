"""Ranking metrics: by hand, against trec_eval, with ties against every order there is."""

import itertools
import math
import sys

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.metrics import ranking as metrics
from mrl_jax.metrics.ranking import (
    accuracy,
    average_precision,
    chance_ndcg,
    f1_scores,
    ndcg,
    recall,
    reciprocal_rank,
)
from mrl_jax.metrics.ties import METRICS, TiedRanking

GRADES = np.array([[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
JUDGED = np.array([[1, 3, 0], [0, 2, 2], [1, 0, 0], [0, 0, 0]])
KS = (1, 3, 5, 10, 100)
TREC = {"ndcg": "ndcg_cut", "accuracy": "success", "map": "map_cut", "recall": "recall"}


def test_by_hand():
    ideal = 3 + 1 / math.log2(3)
    gain = 3 / math.log2(3) + 1 / math.log2(5)
    expected = [gain / ideal, 2 / (2 + 2 / math.log2(3)), 0.0, np.nan]
    np.testing.assert_allclose(ndcg(GRADES, JUDGED, 4), expected, rtol=1e-12)
    np.testing.assert_allclose(ndcg(GRADES, JUDGED, 2)[0], 3 / math.log2(3) / ideal, rtol=1e-12)
    np.testing.assert_array_equal(accuracy(GRADES, JUDGED, 1), [0, 1, 0, np.nan])
    np.testing.assert_array_equal(accuracy(GRADES, JUDGED, 2), [1, 1, 0, np.nan])
    np.testing.assert_array_equal(reciprocal_rank(GRADES, JUDGED, 4), [0.5, 1, 0, np.nan])
    np.testing.assert_array_equal(reciprocal_rank(GRADES, JUDGED, 1), [0, 1, 0, np.nan])
    np.testing.assert_array_equal(recall(GRADES, JUDGED, 2), [0.5, 0.5, 0, np.nan])
    np.testing.assert_array_equal(average_precision(GRADES, JUDGED, 4), [0.5, 0.5, 0, np.nan])


def one_query(rng):
    """A run with ties, perhaps shorter than k, and graded qrels, perhaps of nothing relevant."""
    documents = int(rng.choice([1, 4, 9, 30, 120]))
    ids = [f"d{number}" for number in rng.permutation(3 * documents)[:documents]]
    listed = ids[: int(rng.integers(1, documents + 1))]
    run = {key: float(rng.integers(0, 6)) for key in listed}
    chosen = rng.choice(documents, int(rng.integers(1, min(documents, 12) + 1)), replace=False)
    qrels = {ids[i]: int(rng.integers(0, 4)) for i in chosen}
    if rng.random() < 0.1:
        qrels = dict.fromkeys(qrels, 0)
    return run, qrels


def test_a_thousand_runs_as_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(0)
    made = {f"q{number}": one_query(rng) for number in range(1000)}
    cuts = ",".join(map(str, KS))
    measures = {f"{name}.{cuts}" for name in TREC.values()} | {"recip_rank", "map", "ndcg"}
    runs = {name: run for name, (run, _) in made.items()}
    evaluator = pytrec_eval.RelevanceEvaluator({n: q for n, (_, q) in made.items()}, measures)
    theirs = evaluator.evaluate(runs)
    nothing = 0
    for name, (run, qrels) in made.items():
        by_id = sorted(run, reverse=True)
        order = sorted(by_id, key=lambda key: -run[key])
        grades = np.array([[qrels.get(key, 0) for key in order]])
        judged = np.array([list(qrels.values())])
        expected = {
            (metric, k): theirs[name][f"{trec}_{k}"] for metric, trec in TREC.items() for k in KS
        }
        expected["mrr", 1000] = theirs[name]["recip_rank"]
        expected["map", 1000] = theirs[name]["map"]
        expected["ndcg", 1000] = theirs[name]["ndcg"]
        for (metric, k), value in expected.items():
            (ours,) = METRICS[metric].function(grades, judged, k)
            if max(qrels.values()) == 0:
                assert np.isnan(ours)  # No value, where trec_eval has 0.
                assert value == 0
            else:
                assert ours == pytest.approx(value, abs=1e-9), (name, metric, k)
        nothing += max(qrels.values()) == 0
    assert nothing > 50


def tied_ranking(rng, documents, ranks):
    """A small corpus in few scores, cut at `ranks`, and its whole."""
    scores = -np.sort(-rng.integers(0, 3, documents)).astype(np.float32)
    grades = rng.choice([0, 0, 1, 2], documents)
    grades[rng.integers(documents)] = 1
    inside, behind = grades[:ranks], grades[ranks:]
    edge = scores[ranks:] == scores[min(ranks, documents) - 1]
    beyond = behind[edge & (behind > 0)]
    ranking = TiedRanking(
        inside[None], scores[None, :ranks], beyond[None], np.array([edge.sum()]), grades[None]
    )
    return ranking, scores, grades


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ranks", [3, 6])
def test_over_ties_it_is_the_mean_the_best_and_the_worst_of_all_orders(seed, ranks):
    ranking, scores, grades = tied_ranking(np.random.default_rng(seed), 6, ranks)
    places = [np.flatnonzero(scores == score) for score in sorted(set(scores), reverse=True)]
    orders = itertools.product(*(list(itertools.permutations(group)) for group in places))
    lists = np.array([grades[np.concatenate(order)] for order in orders])
    judged = np.repeat(grades[None], len(lists), axis=0)
    for metric, k in itertools.product(METRICS, (1, 2, 3)):
        values = METRICS[metric].function(lists, judged, k)
        (mean,), (best,), (worst,) = (
            ranking.expected(metric, k),
            ranking.best(metric, k),
            ranking.worst(metric, k),
        )
        assert mean == pytest.approx(values.mean(), abs=1e-12), (metric, k)
        assert best == pytest.approx(values.max(), abs=1e-12), (metric, k)
        assert worst == pytest.approx(values.min(), abs=1e-12), (metric, k)


def test_without_ties_there_is_one_value():
    rng = np.random.default_rng(3)
    grades = rng.integers(0, 3, (50, 12))
    grades[:, 4] = 1
    scores = np.repeat(-np.arange(12.0)[None], 50, axis=0)
    nothing = np.zeros((50, 0), np.int64)
    ranking = TiedRanking(grades, scores, nothing, np.zeros(50, np.int64), grades)
    for metric, k in itertools.product(METRICS, KS):
        value = METRICS[metric].function(grades, grades, k)
        for score in (ranking.expected, ranking.best, ranking.worst):
            np.testing.assert_allclose(score(metric, k), value, atol=1e-12)
    with pytest.raises(ValueError, match="there is no metric 'f1'"):
        ranking.expected("f1", 3)


@pytest.mark.parametrize("documents", [7, 40])
def test_chance_is_the_mean_over_random_orders(documents):
    rng = np.random.default_rng(0)
    judged = np.array([[1, 0, 0], [3, 2, 1], [1, 1, 0], [0, 0, 0]])
    total, tries = 0.0, 20_000
    everything = np.zeros((3, documents), np.int64)
    everything[:, :3] = judged[:3]
    for _ in range(10):
        shuffled = rng.permuted(np.repeat(everything, tries // 10, axis=0), axis=1)
        total += ndcg(shuffled, np.repeat(judged[:3], tries // 10, axis=0), 10).mean() / 10
    assert chance_ndcg(judged, documents, 10) == pytest.approx(total, abs=0.005)
    assert chance_ndcg(judged, documents, 5) < chance_ndcg(judged, documents, 10)
    assert math.isnan(chance_ndcg(judged[3:], documents, 10))


@pytest.mark.parametrize("metric", [*(metric.function for metric in METRICS.values()), chance_ndcg])
def test_k_below_one(metric):
    second = 5 if metric is chance_ndcg else JUDGED
    with pytest.raises(ValueError, match="k is 0, expected 1 or more"):
        metric(JUDGED if metric is chance_ndcg else GRADES, second, 0)


def test_f1_by_hand():
    ours = f1_scores(list("aabc"), list("abbb"), list("abcd"))
    each = {label: f1_scores(list("aabc"), list("abbb"), [label]).macro for label in "abcd"}
    assert each == pytest.approx({"a": 2 / 3, "b": 1 / 2, "c": 0, "d": 0})
    assert ours.macro == pytest.approx(7 / 24)
    assert ours.weighted == pytest.approx((2 * 2 / 3 + 1 / 2) / 4)
    assert f1_scores(["a"], ["a"], ["b"]).weighted == f1_scores([], [], ["b"]).macro == 0


def test_f1_without_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = r"F1 takes sklearn, which is not installed\. Install the extra.*\[train\]"
    with pytest.raises(MrlError, match=message):
        f1_scores(["a"], ["a"], ["a"])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_f1_as_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = list("abcdef")
    for _ in range(100):
        some = labels[: int(rng.integers(1, 7))]  # Others may be never true, or never predicted.
        truth = rng.choice(some, 20).tolist()
        predicted = rng.choice(labels, 20).tolist()
        ours = f1_scores(truth, predicted, labels)
        for average in ("macro", "weighted"):
            theirs = sklearn.f1_score(
                truth, predicted, labels=labels, average=average, zero_division=0
            )
            assert getattr(ours, average) == pytest.approx(theirs, abs=1e-12)
        each = sklearn.f1_score(truth, predicted, labels=labels, average=None, zero_division=0)
        alone = [f1_scores(truth, predicted, [label]).macro for label in labels]
        np.testing.assert_allclose(alone, each, atol=1e-12)
    with pytest.raises(ValueError, match="1 true labels and 2 predicted"):
        f1_scores(["a"], ["a", "b"], labels)
    with pytest.raises(ValueError, match="one is there twice"):
        f1_scores(["a"], ["a"], ["a", "a"])
    assert metrics.f1_scores(["a"], ["a"], ["a"]).macro == 1.0
