"""Intervals hold the truth as often as they say; tests find what is there and no more."""

import numpy as np
import pytest
from scipy.stats import norm

from mrl_jax.metrics.intervals import (
    cluster_bootstrap,
    cluster_bootstraps,
    holm,
    paired_test,
)


def one_way(seed, columns=1):
    """Hits of one to five queries on each of 200 texts, which differ in difficulty: mean 2/3."""
    rng = np.random.default_rng(seed)
    texts = np.repeat(np.arange(200), rng.integers(1, 6, 200))
    chance = rng.beta(2, 1, (200, columns))[texts]
    return (rng.random(chance.shape) < chance).astype(float), texts.tolist()


def two_ways(seed, columns=1):
    """Hits of 600 queries, each of one of 200 texts by one of 200 speakers."""
    rng = np.random.default_rng(seed)
    texts, speakers = rng.integers(0, 200, (2, 600))
    of_text, of_speaker = rng.normal(size=(2, 200, columns))
    hardness = of_text[texts] + 0.7 * of_speaker[speakers]
    hits = (hardness + rng.normal(size=hardness.shape) < 0.5).astype(float)
    return hits, texts.tolist(), speakers.tolist()


def covered(intervals, truth):
    return sum(interval.low <= truth <= interval.high for interval in intervals)


def test_intervals_clustered_one_way_hold_the_truth():
    held, naive = 0, 0
    for seed in range(8):
        hits, texts = one_way(seed, 75)
        held += covered(cluster_bootstraps(hits, texts, seed=seed), 2 / 3)
        naive += covered(cluster_bootstraps(hits, None, resamples=400, seed=seed), 2 / 3)
    assert 0.93 <= held / 600 <= 0.97
    assert naive / 600 < 0.92  # The control: queries are not independent.


def test_intervals_clustered_two_ways_hold_the_truth():
    truth = norm.cdf(0.5 / np.sqrt(1 + 0.49 + 1))
    held, naive = 0, 0
    for seed in range(8):
        hits, texts, speakers = two_ways(seed, 100)
        held += covered(cluster_bootstraps(hits, texts, crossed=speakers, seed=seed), truth)
        naive += covered(cluster_bootstraps(hits, texts, resamples=400, seed=seed), truth)
    assert 0.93 <= held / 800 <= 0.97
    assert naive / 800 < 0.93


@pytest.mark.parametrize("speakers", [3, 4, 6])
def test_intervals_of_few_clusters_hold_the_truth(speakers):
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(speakers), 30)
    values = rng.normal(size=(speakers, 400))[of] + 0.5 * rng.normal(size=(len(of), 400))
    held = covered(cluster_bootstraps(values, of.tolist()), 0)
    assert 0.92 <= held / 400 <= 0.98


def test_two_ways_are_at_least_as_wide_as_each():
    columns, texts, speakers = two_ways(0)
    hits = columns[:, 0]
    both = cluster_bootstrap(hits, texts, crossed=speakers)
    for way in (texts, speakers):
        one = cluster_bootstrap(hits, way)
        assert both.high - both.low > 0.95 * (one.high - one.low)
        assert both.mean == one.mean == hits.mean()
    # The same labels twice are one way.
    same = cluster_bootstrap(hits, texts, crossed=texts)
    one = cluster_bootstrap(hits, texts)
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.1)


def test_columns_share_their_resamples_and_a_seed_repeats_them():
    columns, texts = one_way(3)
    hits = columns[:, 0]
    pair = cluster_bootstraps(np.stack((hits, 1 - hits), axis=1), texts, seed=5)
    assert pair[0] == cluster_bootstrap(hits, texts, seed=5)
    assert pair[0].low == pytest.approx(1 - pair[1].high, abs=1e-12)
    assert pair[0] != cluster_bootstrap(hits, texts, seed=6)
    wide = cluster_bootstrap(hits, texts, level=0.99)
    assert wide.low < pair[0].low
    assert wide.high > pair[0].high


def test_what_one_cluster_or_equal_values_can_tell():
    alone = cluster_bootstrap(np.array([0.0, 1.0]), ["a", "a"])
    assert alone.mean == 0.5
    assert np.isnan(alone.low)
    assert np.isnan(alone.high)
    # One speaker tells nothing of others, but the texts still vary.
    values = np.array([0.0, 1.0, 1.0, 0.5])
    assert cluster_bootstrap(values, list("abcd"), crossed=list("ssss")) == cluster_bootstrap(
        values, None
    )
    equal = cluster_bootstrap(np.ones(4), None)
    assert (equal.mean, equal.low, equal.high) == (1, 1, 1)
    for size in range(2, 20):  # Such means may round to beside the values.
        alike = cluster_bootstrap(np.full(size, 1 / np.log2(3)), None)
        assert alike.low <= alike.mean <= alike.high
    few = cluster_bootstrap(values, None)
    assert values.min() <= few.low < few.mean < few.high <= values.max()
    for bad, message in ((np.zeros(0), "no values"), (np.array([np.nan]), "not finite")):
        with pytest.raises(ValueError, match=message):
            cluster_bootstrap(bad, None)
    with pytest.raises(ValueError, match="4 values and 2 labels"):
        cluster_bootstrap(values, ["a", "b"])


def test_a_paired_test_is_right_as_often_as_it_says():
    false, true = 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(40), 3)
        shared = rng.normal(size=40)[clusters]
        a, b = (shared + rng.normal(size=40)[clusters] for _ in range(2))
        false += paired_test(a, b, clusters.tolist(), resamples=200, seed=seed).p_value < 0.05
        true += paired_test(a + 1, b, clusters.tolist(), resamples=200, seed=seed).p_value < 0.05
    assert 0.01 <= false / 200 <= 0.09
    assert true / 200 > 0.9


def test_few_clusters_try_every_pattern_of_signs():
    a, b = np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.zeros(5)
    result = paired_test(a, b, list("abcde"))
    assert result.p_value == 2 / 32
    assert result.difference == 3.8
    assert result.low <= 3.8 <= result.high
    assert paired_test(b, b, None).p_value == 1.0
    # All alike: nothing tells how speakers vary, and two of them can never be significant.
    many = paired_test(np.ones(40), np.zeros(40), list(range(40)), crossed=[0, 1] * 20)
    assert many.p_value == 0.5
    assert paired_test(np.ones(40), np.zeros(40), list(range(40))).p_value < 1e-3


def crossed_differences(seed, texts, speakers, size):
    """Differences that vary by text, by speaker and by query, and are none on the whole."""
    rng = np.random.default_rng(seed)
    text, speaker = rng.integers(0, texts, size), np.arange(size) % speakers
    values = rng.normal(size=texts)[text] + rng.normal(size=speakers)[speaker]
    return values + rng.normal(size=size), text.tolist(), speaker.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("texts", "speakers"), [(30, 30), (100, 4), (50, 8)])
def test_a_test_of_two_ways_is_right_as_often_as_it_says(texts, speakers):
    seen = {"null": 0, "one way": 0, "real": 0}
    for seed in range(300):
        values, text, speaker = crossed_differences(seed, texts, speakers, 300)
        zero = np.zeros_like(values)
        both = {"crossed": speaker, "resamples": 100}
        seen["null"] += paired_test(values, zero, text, **both).p_value < 0.05
        if seed < 150:  # The two controls are far from their bounds.
            seen["one way"] += paired_test(values, zero, text, resamples=100).p_value < 0.05
            seen["real"] += paired_test(values + 3, zero, text, **both).p_value < 0.05
    assert 0.01 <= seen["null"] / 300 <= 0.085
    assert seen["one way"] / 150 > 0.12  # The control: speakers matter as well.
    # Sign flips of four speakers never reach below 0.125.
    assert seen["real"] / 150 > 0.8


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
