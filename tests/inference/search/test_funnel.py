"""Fewer bits and funnels against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.inference.search import quantize
from mrl_jax.inference.search.funnel import exact_places, make_funnel, recall_of
from mrl_jax.inference.search.quantize import Int8Store, to_binary, to_int8


def unit(rows: int, width: int, seed: int = 0) -> np.ndarray:
    spread = np.linspace(1, 0.2, width)
    vectors = np.random.default_rng(seed).normal(size=(rows, width)) * spread + 0.3
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUERIES, DOCUMENTS = unit(6, 24, 1), unit(300, 24)


def sorted_places(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 50.0]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_int8_is_within_half_a_step(seed, scale):
    vectors = (scale * np.random.default_rng(seed).normal(size=(20, 5))).astype(np.float32)
    vectors[:, 2] = 0.25  # One that never varies is kept exactly.
    store = to_int8(vectors)
    assert store.codes.dtype == np.int8
    assert (store.codes.min(axis=0)[[0, 1, 3, 4]] == -128).all()
    assert (store.codes.max(axis=0)[[0, 1, 3, 4]] == 127).all()
    error = np.abs(store.decode() - vectors)
    assert (error <= store.step / 2 + 1e-5 * scale).all()
    np.testing.assert_array_equal(store.decode()[:, 2], vectors[:, 2])


@pytest.mark.parametrize("chunk", [70, 1000])
def test_int8_search_is_that_of_the_decoded_vectors(chunk):
    store = to_int8(DOCUMENTS, chunk=chunk)
    assert store.bytes_per_document == 24 == store.codes.nbytes / 300
    every = QUERIES.astype(np.float64) @ store.decode().T.astype(np.float64)
    np.testing.assert_array_equal(store.scan(QUERIES, 10), sorted_places(every, 10))
    assert (store.scan(QUERIES, 10) != exact_places(QUERIES, DOCUMENTS, 10)).any()
    # What `score` leaves out is the same for all documents of a query.
    places = np.broadcast_to(np.arange(300), (6, 300))
    missing = every - store.score(QUERIES, places)
    assert np.ptp(missing, axis=1).max() < 1e-5


@pytest.mark.parametrize("chunk", [70, 1000])
@pytest.mark.parametrize("precision", ["fp32", "int8", "binary"])
def test_a_shortlist_holds_what_a_scan_finds(chunk, precision):
    store, _ = quantize.stores(DOCUMENTS, precision, chunk=chunk)
    short, scanned = store.shortlist(QUERIES, 40), store.scan(QUERIES, 40)
    assert short.shape == (6, 40)
    np.testing.assert_array_equal(np.sort(short, axis=1), np.sort(scanned, axis=1))
    assert (np.sort(short, axis=1) != np.sort(store.scan(-QUERIES, 40), axis=1)).any()


def test_equal_codes_stand_in_the_order_of_the_corpus():
    codes = np.zeros((200, 3), np.int8)
    store = Int8Store(codes, np.zeros(3, np.float32), np.ones(3, np.float32))
    np.testing.assert_array_equal(store.scan(unit(2, 3), 5), [[0, 1, 2, 3, 4]] * 2)


@pytest.mark.parametrize("width", [3, 8, 19, 32, 64, 100])
def test_signs_and_their_distances(width):
    queries, documents = unit(4, width, 2) - 0.1, unit(150, width, 3) - 0.1
    store = to_binary(documents)
    assert store.bytes_per_document == -(-width // 8) == store.bits.nbytes / 150
    signs, query_signs = documents > 0, queries > 0
    distances = (signs[None] != query_signs[:, None]).sum(axis=2)
    for query, expected in zip(queries, distances, strict=True):
        np.testing.assert_array_equal(store.distances(query), expected)
    # Distances are few, so most of them are tied.
    np.testing.assert_array_equal(store.scan(queries, 40), sorted_places(-distances, 40))
    places = store.scan(queries, 40)
    signed = np.where(signs, 1.0, -1.0)[places]
    expected = np.einsum("qe,qse->qs", queries.astype(np.float64), signed)
    np.testing.assert_allclose(store.score(queries, places), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "bytes_each"), [("fp32", 96), ("int8", 24), ("binary", 3), ("binary+int8", 27)]
)
def test_bytes_and_rescoring(precision, bytes_each):
    funnel = make_funnel(DOCUMENTS, precision, shortlist=30)
    assert funnel.bytes_per_document == bytes_each
    rows = funnel.search(QUERIES, 10)
    if precision == "fp32":
        np.testing.assert_array_equal(rows, exact_places(QUERIES, DOCUMENTS, 10))
    if precision.startswith("binary"):
        hamming = ((DOCUMENTS > 0)[None] != (QUERIES > 0)[:, None]).sum(axis=2)
        held = np.where(DOCUMENTS > 0, 1.0, -1.0)
        held = to_int8(DOCUMENTS).decode() if precision == "binary+int8" else held
        for query, row, distance in zip(QUERIES, rows, hamming, strict=True):
            short = np.sort(np.argsort(distance, kind="stable")[:30])
            scores = held[short].astype(np.float64) @ query
            best = short[np.argsort(-scores, kind="stable")[:10]]
            np.testing.assert_array_equal(row, best)
    # The more bits score the short list again, the nearer to exact search.
    exact = exact_places(QUERIES, DOCUMENTS, 10)
    assert recall_of(rows, exact) >= {"fp32": 1, "int8": 0.9}.get(precision, 0.2)


def test_a_funnel_over_the_whole_corpus_is_exact_search():
    exact = exact_places(QUERIES, DOCUMENTS, 10)
    whole = make_funnel(DOCUMENTS, prefix=4, shortlist=300).search(QUERIES, 10)
    np.testing.assert_array_equal(whole, exact)
    doubled = np.repeat(DOCUMENTS, 2, axis=0)  # Ties: the lower index is first.
    np.testing.assert_array_equal(
        make_funnel(doubled, prefix=4, shortlist=600).search(QUERIES, 10),
        exact_places(QUERIES, doubled, 10),
    )
    recalls = [
        recall_of(make_funnel(DOCUMENTS, prefix=4, shortlist=size).search(QUERIES, 10), exact)
        for size in (10, 40, 120, 300)
    ]
    assert recalls == sorted(recalls)
    assert recalls[0] < 1 == recalls[-1]


def test_a_prefix_may_lose_what_the_whole_would_find():
    # The first two coordinates tell the wrong document, the third the right one.
    documents = np.array([[1, 0, 0], [0.6, 0.0, 0.8], [0, 1, 0]], np.float32)
    query = np.array([[0.55, 0.01, 0.83]], np.float32)
    query /= np.linalg.norm(query)
    assert exact_places(query, documents, 1).tolist() == [[1]]
    spoilt = documents.copy()
    spoilt[1] = [0.0, 0.6, 0.8]
    assert exact_places(query, spoilt, 1).tolist() == [[1]]
    assert make_funnel(spoilt, prefix=2, shortlist=1).search(query, 1).tolist() == [[0]]
    assert make_funnel(spoilt, prefix=2, shortlist=3).search(query, 1).tolist() == [[1]]


def test_flops_and_bytes_of_a_funnel():
    funnel = make_funnel(DOCUMENTS, "fp32", prefix=8, shortlist=50)
    assert funnel.bytes_per_document == 4 * (24 + 8)
    assert funnel.flops(1000) == 2 * 8 * 1000 + 2 * 24 * 50
    assert funnel.flops(20) == 2 * 8 * 20 + 2 * 24 * 20
    binary = make_funnel(DOCUMENTS, "binary+int8", prefix=16, shortlist=50)
    assert binary.bytes_per_document == 2 + 24
    assert binary.flops(1000) == 3 * 1000 + 2 * 24 * 50
    assert make_funnel(DOCUMENTS, "int8").flops(1000) == 2 * 24 * 1000


def test_what_cannot_be_stored():
    spoilt = DOCUMENTS.copy()
    spoilt[7, 3] = np.nan
    for precision in quantize.PRECISIONS:
        with pytest.raises(MrlError, match="the vector of document 7 is not finite"):
            make_funnel(spoilt, precision)
    with pytest.raises(MrlError, match="nothing to quantise"):
        to_int8(DOCUMENTS[:0])
    with pytest.raises(MrlError, match="is not shorter than the whole vector of 24"):
        make_funnel(DOCUMENTS, prefix=24)
    with pytest.raises(MrlError, match="the short list is 0"):
        make_funnel(DOCUMENTS, shortlist=0)
