"""Exact search against a full sort, whatever the chunks."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.inference.search.exact import (
    BLOCK,
    Sizes,
    exact_scores,
    exact_sums,
    rank,
    rough_search,
    search,
)
from mrl_jax.inference.search.funnel import make_funnel
from mrl_jax.inference.search.quantize import PRECISIONS

RNG = np.random.default_rng(0)
# Small whole numbers: products are exact, and many are equal.
QUERIES = RNG.integers(-2, 3, (9, 8)).astype(np.float32)
DOCUMENTS = RNG.integers(-2, 3, (53, 8)).astype(np.float32)


def unit(rows: int, width: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("chunk", [7, 52, 53, 54])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_it_is_a_stable_sort(chunk, k):
    scores, places = search(QUERIES, DOCUMENTS, k, chunk=chunk)
    every = QUERIES @ DOCUMENTS.T
    expected = np.argsort(-every, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(every, expected, axis=1))
    assert places.shape == (9, min(k, 53))


# Few sizes, so that few shapes are compiled; blocks are left partly filled.
@given(
    seed=st.integers(0, 2**32 - 1),
    largest=st.integers(1, 4),
    k=st.sampled_from([1, 5, 40]),
    chunk=st.sampled_from([1000, 2752]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_ties_in_many_blocks_are_ordered_by_index(seed, largest, k, chunk):
    rng = np.random.default_rng(seed)
    queries = rng.integers(-largest, largest + 1, (4, 6)).astype(np.float32)
    documents = rng.integers(-largest, largest + 1, (43 * BLOCK - 7, 6)).astype(np.float32)
    every = queries @ documents.T
    expected = np.argsort(-every, axis=1, kind="stable")[:, :k]
    result = rank(queries, documents, k, chunk=chunk)
    np.testing.assert_array_equal(result.indices, expected)
    np.testing.assert_array_equal(result.scores, np.take_along_axis(every, expected, axis=1))
    last = result.scores[:, -1:]
    np.testing.assert_array_equal(
        result.tied, (every == last).sum(axis=1) - (result.scores == last).sum(axis=1)
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from([0.0, 1e-7, 1e-3, 0.3]),
    span=st.sampled_from([1, 500, 1 << 20]),
    half=st.booleans(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_pass_in_bfloat16_changes_no_result(seed, noise, span, half):
    """Documents as near to each other as bfloat16 sees, or nearer, or not at all."""
    rng = np.random.default_rng(seed)
    queries, kinds = unit(40, 16, seed % 1000), unit(60, 16, 7)
    documents = kinds[rng.integers(0, 60, 900)]
    documents += (noise * rng.normal(size=documents.shape)).astype(np.float32)
    every = exact_sums(
        np.broadcast_to(queries[:, None], (40, 900, 16)), np.broadcast_to(documents, (40, 900, 16))
    ).astype(np.float32)
    expected = np.argsort(-every, axis=1, kind="stable")[:, :10]
    sizes = Sizes(span=span, half=1 if half else 99)
    result = rank(queries, documents, 10, chunk=300, sizes=sizes)
    np.testing.assert_array_equal(result.indices, expected)
    np.testing.assert_array_equal(result.scores, np.take_along_axis(every, expected, axis=1))
    last = result.scores[:, -1:]
    tied = (every == last).sum(axis=1) - (result.scores == last).sum(axis=1)
    np.testing.assert_array_equal(result.tied, tied)


def test_a_doubt_is_settled_by_a_second_pass():
    passes = []
    count = lambda precision, rows: passes.append((precision, rows))  # noqa: E731
    queries, documents = unit(40, 16), unit(900, 16, 1)
    rank(queries, documents, 10, on_pass=count)
    # The wide gaps of 16 coordinates leave few doubts, or none.
    assert passes[0] == ("bfloat16", 40)
    assert all(precision == "float32" and rows < 20 for precision, rows in passes[1:])
    # 900 documents about one direction: bfloat16 cannot tell them apart, float32 can.
    passes.clear()
    near = documents[:1] + np.float32(1e-3) * unit(900, 16, 2)
    result = rank(queries, near, 10, on_pass=count)
    assert [precision for precision, _ in passes] == ["bfloat16", "float32"]
    assert passes[0][1] == 40
    assert passes[1][1] > 20
    every = exact_scores(
        np.broadcast_to(queries[:, None], (40, 900, 16)), np.broadcast_to(near, (40, 900, 16))
    )
    expected = np.argsort(-every, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(result.indices, expected)


def test_there_are_ties_to_break():
    every = QUERIES @ DOCUMENTS.T
    other = np.argsort(-every[:, ::-1], axis=1, kind="stable")[:, :10]
    assert (52 - other != search(QUERIES, DOCUMENTS, 10)[1]).any()


def test_no_chunk_batch_or_device_changes_a_result():
    queries, documents = unit(20, 24, 1), unit(3000, 24)
    documents[1::3] = documents[::3]  # Every third document is there twice.
    whole = rank(queries, documents, 10, devices=jax.local_devices()[:1])
    alone = [rank(queries[i : i + 1], documents, 10, chunk=1500) for i in range(20)]
    devices = jax.local_devices()
    split = rank(queries, documents, 10, chunk=170, devices=devices, sizes=Sizes(queries=7))
    assert len(jax.local_devices()) == 2
    for name in ("scores", "indices", "tied"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(split, name))
        joined = np.concatenate([getattr(one, name) for one in alone])
        np.testing.assert_array_equal(getattr(whole, name), joined)
    every = (queries[:, None].astype(np.float64) * documents[None]).sum(axis=-1)
    expected = np.argsort(-every.astype(np.float32), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(whole.indices, expected)
    # Equal vectors tie exactly, the first of them first.
    pairs = (whole.indices[:, :-1] % 3 == 0) & (whole.indices[:, 1:] == whole.indices[:, :-1] + 1)
    assert pairs.sum() > 20
    np.testing.assert_array_equal(whole.scores[:, :-1][pairs], whole.scores[:, 1:][pairs])


def test_scores_closer_than_rounding_are_still_ordered():
    queries, documents = unit(3, 64), np.repeat(unit(3, 64), 200, axis=0)
    documents += np.random.default_rng(2).normal(scale=3e-8, size=documents.shape).astype("f4")
    result = rank(queries, documents, 5)
    every = exact_scores(
        np.broadcast_to(queries[:, None], (3, 600, 64)),
        np.broadcast_to(documents, (3, 600, 64)),
    )
    expected = np.argsort(-every, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(result.indices, expected)


def test_nothing_to_search():
    with pytest.raises(ValueError, match="no documents"):
        search(QUERIES, DOCUMENTS[:0], 10)
    scores, places = search(QUERIES[:0], DOCUMENTS, 10)
    assert scores.shape == places.shape == (0, 10)
    scores, places = rough_search(QUERIES[:0], DOCUMENTS, 10)
    assert scores.shape == places.shape == (0, 10)
    for precision in PRECISIONS:
        funnel = make_funnel(DOCUMENTS, precision, prefix=4, shortlist=20)
        assert funnel.search(QUERIES[:0], 10).shape == (0, 10)
    with pytest.raises(ValueError, match="k is 0"):
        search(QUERIES, DOCUMENTS, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_named(value):
    spoilt = DOCUMENTS.copy()
    spoilt[41, 3] = value
    for chunk in (100, 10):
        with pytest.raises(MrlError, match="the vector of document 41 is not finite"):
            search(QUERIES, spoilt, 3, chunk=chunk)
    with pytest.raises(MrlError, match="the vector of query 41 is not finite"):
        search(spoilt, DOCUMENTS, 3)


@pytest.mark.parametrize("width", [96, 257, 1024])
def test_a_score_does_not_depend_on_how_its_vectors_lie(width):
    rng = np.random.default_rng(width)
    queries, documents = (rng.normal(size=(n, width)).astype(np.float32) for n in (20, 30))
    repeated = np.broadcast_to(queries[:, None], (20, 30, width))
    # The sums themselves, before they are rounded to what is compared.
    every = np.broadcast_to(documents, repeated.shape)
    together = exact_sums(repeated, every)
    apart = [[np.sum(q.astype(np.float64) * d) for d in documents] for q in queries]
    np.testing.assert_array_equal(together, apart)
    careless = (repeated.astype(np.float64) * every).sum(axis=-1)
    assert (careless != together).any()
