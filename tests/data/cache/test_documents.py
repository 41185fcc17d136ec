"""Caches of documents: read back as they were written; of others, or damaged, refused."""

import json
import pickle

import numpy as np
import pytest

from mrl_jax.core.checksums import UnverifiedWarning
from mrl_jax.core.errors import MrlError
from mrl_jax.data.cache.documents import (
    document_cache_key,
    open_document_cache,
    write_document_cache,
)

KEY = document_cache_key(
    ["ba", "ce"], tower="a" * 64, tokenizer="b" * 64, max_tokens=9, dtype="float32"
)
VECTORS = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_a_cache_is_read_back_as_it_was_written(tmp_path):
    assert open_document_cache(tmp_path / "cache", KEY, 2) is None
    write_document_cache(tmp_path / "cache", KEY, VECTORS)
    vectors = open_document_cache(tmp_path / "cache", KEY, 2)
    assert vectors is not None
    np.testing.assert_array_equal(vectors[np.asarray([1, 0])], VECTORS[::-1])
    assert len(pickle.dumps(vectors)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(vectors))[:], VECTORS)
    with pytest.raises(MrlError, match="exists already"):
        write_document_cache(tmp_path / "cache", KEY, VECTORS)


@pytest.mark.parametrize("part", sorted(KEY))
def test_a_cache_of_something_else_is_refused(tmp_path, part):
    write_document_cache(tmp_path / "cache", KEY, VECTORS)
    with pytest.raises(MrlError, match=f"cache: was made with another {part} .*remove this one"):
        open_document_cache(tmp_path / "cache", {**KEY, part: "other"}, 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "cache.json").write_text("{"), "cannot be read as a cache"),
        (lambda f: (f / "cache.json").write_text(json.dumps({"format": 9})), "the format is not 1"),
        (lambda f: (f / "cache.json").unlink(), "cannot be read as a cache"),
        (
            lambda f: np.save(f / "vectors.npy", VECTORS * 2),
            "vectors.npy: is not the file that was written.*remove this one",
        ),
        (lambda f: (f / "vectors.npy").unlink(), "vectors.npy: is missing"),
    ],
)
def test_a_damaged_cache_is_refused(tmp_path, spoil, message):
    write_document_cache(tmp_path / "cache", KEY, VECTORS)
    spoil(tmp_path / "cache")
    with pytest.raises(MrlError, match=message):
        open_document_cache(tmp_path / "cache", KEY, 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.write_bytes(b"\x93NUMPY"), "vectors.npy: cannot be read"),
        (lambda f: np.save(f, VECTORS[:1]), r"shape \(1, 4\), expected float32 of \(2, any\)"),
        (lambda f: np.save(f, VECTORS.astype("f8")), "holds float64"),
        (
            lambda f: np.save(f, np.asarray([{}], object), allow_pickle=True),
            "vectors.npy: cannot be read",
        ),
    ],
)
def test_a_damaged_array_is_refused_without_digests_too(tmp_path, spoil, message):
    write_document_cache(tmp_path / "cache", KEY, VECTORS)
    spoil(tmp_path / "cache" / "vectors.npy")
    with pytest.raises(MrlError, match=message):
        open_document_cache(tmp_path / "cache", KEY, 2, verify=False)


def test_a_cache_from_before_digests_is_read_and_that_is_said(tmp_path):
    write_document_cache(tmp_path / "cache", KEY, VECTORS)
    path = tmp_path / "cache" / "cache.json"
    path.write_text(json.dumps({"format": 1, "made_of": KEY, "documents": 2, "width": 4}))
    with pytest.warns(UnverifiedWarning, match="cache was written without digests"):
        cache = open_document_cache(tmp_path / "cache", KEY, 2)
    assert cache is not None
    assert np.array_equal(cache[:], VECTORS)
