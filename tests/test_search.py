"""Exact search against a full sort, whatever the chunks."""

import numpy as np
import pytest

from mrl_jax.evaluation.search import search

RNG = np.random.default_rng(0)
# Small whole numbers: products are exact, and many are equal.
QUERIES = RNG.integers(-2, 3, (9, 8)).astype(np.float32)
DOCUMENTS = RNG.integers(-2, 3, (53, 8)).astype(np.float32)


@pytest.mark.parametrize("chunk", [7, 52, 53, 54])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_it_is_a_stable_sort(chunk, k):
    scores, places = search(QUERIES, DOCUMENTS, k, chunk=chunk)
    every = QUERIES @ DOCUMENTS.T
    expected = np.argsort(-every, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(every, expected, axis=1))
    assert places.shape == (9, min(k, 53))


def test_there_are_ties_to_break():
    every = QUERIES @ DOCUMENTS.T
    other = np.argsort(-every[:, ::-1], axis=1, kind="stable")[:, :10]
    assert (52 - other != search(QUERIES, DOCUMENTS, 10)[1]).any()


def test_unit_vectors_in_chunks():
    vectors = RNG.normal(size=(300, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole, parts = (search(vectors[:20], vectors, 10, chunk=chunk) for chunk in (1000, 17))
    np.testing.assert_allclose(whole[0], parts[0], atol=1e-6)
    np.testing.assert_array_equal(whole[1], parts[1])
    np.testing.assert_array_equal(whole[1][:, 0], np.arange(20))


def test_nothing_to_search():
    with pytest.raises(ValueError, match="no documents"):
        search(QUERIES, DOCUMENTS[:0], 10)
