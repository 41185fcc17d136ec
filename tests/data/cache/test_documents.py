"""Documents embedded once: the run is that without a store; a store of others is refused."""

import json
import pickle

import numpy as np
import pytest
import tiny_run
from tiny_run import four_steps

from mrl_jax.core.errors import MrlError
from mrl_jax.data.cache.documents import (
    document_cache_key,
    open_document_cache,
    write_document_cache,
)
from mrl_jax.inference.encoder import Encoder

pytestmark = pytest.mark.usefixtures("quick_to_compile")

KEY = document_cache_key(
    ["ba", "ce"], tower="a" * 64, tokenizer="b" * 64, max_tokens=9, dtype="float32"
)
VECTORS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.make_world(tmp_path_factory.mktemp("world"), examples=30)


def test_a_run_with_a_store_is_that_without(root, monkeypatch):
    plain, _ = four_steps(root, "plain")
    texts = []
    inner = Encoder.text

    def counted(self, items, **options):
        texts.append(list(items))
        return inner(self, items, **options)

    monkeypatch.setattr(Encoder, "text", counted)
    store = f"data.document_cache={root / 'store'}"
    first, said = four_steps(root, "first", store)
    np.testing.assert_allclose(first, plain, rtol=1e-5)
    # Each text once, whatever its examples; and the next run embeds none.
    assert len(texts) == 1
    assert len(set(texts[0])) == len(texts[0]) < 30
    assert any("vectors computed once" in line for line in said)
    again, said = four_steps(root, "again", store, "optim.accumulation_steps=2")
    assert len(texts) == 1
    assert not any("vectors computed once" in line for line in said)
    np.testing.assert_allclose(again, plain, rtol=1e-4)
    # Vectors of other documents give another loss: those in the store are what is read.
    path = root / "store" / "vectors.npy"
    kept = np.load(path)
    np.save(path, kept[::-1])
    wrong, _ = four_steps(root, "wrong", store)
    assert abs(wrong[0] - plain[0]) > 1e-3
    np.save(path, kept)
    for change, message in (
        ("data.batch.max_text_tokens=8", "was made with another max_text_tokens"),
        ("model.dtype=bfloat16", "was made with another dtype"),
    ):
        with pytest.raises(MrlError, match=f"{message}.*data.document_cache"):
            four_steps(root, "none", store, change)


def test_a_store_is_read_back_as_it_was_written(tmp_path):
    assert open_document_cache(tmp_path / "store", KEY, 2) is None
    write_document_cache(tmp_path / "store", KEY, VECTORS)
    found = open_document_cache(tmp_path / "store", KEY, 2)
    np.testing.assert_array_equal(found[np.asarray([1, 0])], VECTORS[::-1])
    assert len(pickle.dumps(found)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found))[:], VECTORS)
    with pytest.raises(MrlError, match="exists already"):
        write_document_cache(tmp_path / "store", KEY, VECTORS)


@pytest.mark.parametrize("part", sorted(KEY))
def test_a_store_of_something_else_is_refused(tmp_path, part):
    write_document_cache(tmp_path / "store", KEY, VECTORS)
    with pytest.raises(MrlError, match=f"store: was made with another {part} .*remove this one"):
        open_document_cache(tmp_path / "store", {**KEY, part: "other"}, 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "cache.json").write_text("{"), "cannot be read as a cache"),
        (lambda f: (f / "cache.json").write_text(json.dumps({"format": 9})), "the format is not 1"),
        (lambda f: (f / "cache.json").unlink(), "cannot be read as a cache"),
        (lambda f: (f / "vectors.npy").write_bytes(b"\x93NUMPY"), "vectors.npy: cannot be read"),
        (
            lambda f: np.save(f / "vectors.npy", VECTORS[:1]),
            r"shape \(1, 4\), expected float32 of \(2, any\)",
        ),
        (lambda f: np.save(f / "vectors.npy", VECTORS.astype("f8")), "holds float64"),
        (
            lambda f: np.save(f / "vectors.npy", np.asarray([{}], object), allow_pickle=True),
            "vectors.npy: cannot be read",
        ),
    ],
)
def test_a_damaged_store_is_refused(tmp_path, spoil, message):
    write_document_cache(tmp_path / "store", KEY, VECTORS)
    spoil(tmp_path / "store")
    with pytest.raises(MrlError, match=message):
        open_document_cache(tmp_path / "store", KEY, 2)
