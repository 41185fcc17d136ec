"""Ranking metrics: by hand, and chance by Monte Carlo; test_retrieval.py has trec_eval."""

import math

import numpy as np
import pytest

from mrl_jax.metrics import accuracy, chance_ndcg, ndcg, reciprocal_rank

GRADES = np.array([[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
JUDGED = np.array([[1, 3, 0], [0, 2, 2], [1, 0, 0], [0, 0, 0]])


def test_by_hand():
    ideal = 3 + 1 / math.log2(3)
    found = 3 / math.log2(3) + 1 / math.log2(5)
    expected = [found / ideal, 2 / (2 + 2 / math.log2(3)), 0.0, np.nan]
    np.testing.assert_allclose(ndcg(GRADES, JUDGED, 4), expected, rtol=1e-12)
    np.testing.assert_allclose(ndcg(GRADES, JUDGED, 2)[0], 3 / math.log2(3) / ideal, rtol=1e-12)
    np.testing.assert_array_equal(accuracy(GRADES, JUDGED, 1), [0, 1, 0, np.nan])
    np.testing.assert_array_equal(accuracy(GRADES, JUDGED, 2), [1, 1, 0, np.nan])
    np.testing.assert_array_equal(reciprocal_rank(GRADES, JUDGED, 4), [0.5, 1, 0, np.nan])
    np.testing.assert_array_equal(reciprocal_rank(GRADES, JUDGED, 1), [0, 1, 0, np.nan])


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


@pytest.mark.parametrize("metric", [ndcg, accuracy, reciprocal_rank, chance_ndcg])
def test_k_below_one(metric):
    second = 5 if metric is chance_ndcg else JUDGED
    with pytest.raises(ValueError, match="k is 0, expected 1 or more"):
        metric(JUDGED if metric is chance_ndcg else GRADES, second, 0)
