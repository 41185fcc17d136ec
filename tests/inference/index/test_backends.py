"""Approximate search by faiss and usearch: the candidates are theirs, the order is the index's."""

import sys

import numpy as np
import pytest
from tiers import mostly_slow

from mrl_jax.core.errors import MrlError
from mrl_jax.inference.index.backends import BACKENDS
from mrl_jax.inference.index.search_index import SearchIndex

faiss = pytest.importorskip("faiss")
pytest.importorskip("usearch")
WIDTH = 16


def clustered(rows: int, seed: int) -> np.ndarray:
    """Unit vectors around a few centres, the same for every seed."""
    centres = np.random.default_rng(99).standard_normal((20, WIDTH))
    rng = np.random.default_rng(seed)
    made = centres[rng.integers(0, 20, rows)] + 0.4 * rng.standard_normal((rows, WIDTH))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = clustered(2000, 0), clustered(20, 1)
NAMES = [{"id": str(i), "text": "x"} for i in range(2000)]


def rows_of(found) -> list[list[int]]:
    return [[int(hit.id) for hit in hits] for hits in found]


def exact(vectors: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(QUERIES.astype(np.float64) @ vectors.T), axis=1, kind="stable")[:, :k]


def recall(found: list[list[int]], wanted: np.ndarray) -> float:
    hits = [len({*row} & {*best.tolist()}) for row, best in zip(found, wanted, strict=True)]
    return sum(hits) / wanted.size


@pytest.mark.parametrize("name", BACKENDS)
def test_candidates_are_put_in_the_exact_order(name, tmp_path):
    index = SearchIndex.from_vectors(VECTORS, NAMES, backend=name, shortlist=200)
    index.save(tmp_path / "index")
    again = SearchIndex.load(tmp_path / "index")
    wanted = exact(VECTORS, 10)
    for each in (index, again):
        found = each.search(QUERIES, k=10)
        assert recall(rows_of(found), wanted) > 0.95
        for hits, query in zip(found, QUERIES, strict=True):
            true = VECTORS[[int(hit.id) for hit in hits]] @ query
            np.testing.assert_allclose([hit.score for hit in hits], true, atol=1e-6)
            assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
    assert rows_of(again.search(QUERIES, k=10)) == rows_of(found)


def test_the_flat_index_is_that_of_faiss_itself():
    index = SearchIndex.from_vectors(VECTORS, NAMES, backend="faiss-flat", shortlist=10)
    plain = faiss.IndexFlatIP(WIDTH)
    plain.add(VECTORS)
    scores, rows = plain.search(QUERIES, 10)
    found = index.search(QUERIES, k=10)
    assert rows_of(found) == rows.tolist()
    np.testing.assert_allclose([[hit.score for hit in hits] for hits in found], scores, atol=1e-6)


@pytest.mark.parametrize("name", mostly_slow(BACKENDS, quick=2))
def test_documents_come_and_go(name, tmp_path):
    index = SearchIndex.from_vectors(VECTORS[:1500], NAMES[:1500], backend=name, shortlist=200)
    index.add(NAMES[1500:], VECTORS[1500:])
    gone = exact(VECTORS, 3).ravel().tolist()
    index.remove([str(i) for i in {*gone}])
    kept = np.asarray([i for i in range(2000) if i not in {*gone}])
    wanted = kept[exact(VECTORS[kept], 10)]
    before = index.search(QUERIES, k=10)
    index.save(tmp_path / "index")
    for found in (before, index.search(QUERIES, k=10)):
        assert recall(rows_of(found), wanted) > 0.95
        assert not {*gone} & {row for rows in rows_of(found) for row in rows}


@pytest.mark.parametrize(
    "options", mostly_slow([{"prefix": 8}, {"precision": "int8"}, {"precision": "float16"}])
)
def test_a_backend_goes_with_prefixes_and_precisions(options, tmp_path):
    index = SearchIndex.from_vectors(VECTORS, NAMES, backend="faiss-hnsw", shortlist=400, **options)
    index.remove(["0"])
    index.save(tmp_path / "index")
    found = SearchIndex.load(tmp_path / "index").search(QUERIES, k=10)
    assert recall(rows_of(found), exact(VECTORS, 10)) > 0.9


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_few_documents_are_all_found(name, rows):
    index = SearchIndex.from_vectors(VECTORS[:rows], NAMES[:rows], backend=name)
    assert rows_of(index.search(QUERIES, k=rows)) == exact(VECTORS[:rows], rows).tolist()


@pytest.mark.parametrize(("name", "package"), [("faiss-hnsw", "faiss"), ("usearch", "usearch")])
def test_a_missing_package_is_one_line(name, package, tmp_path, monkeypatch):
    SearchIndex.from_vectors(VECTORS, NAMES, backend=name).save(tmp_path / "index")
    monkeypatch.setitem(sys.modules, package, None)
    line = rf"the backend {name} takes {package}.*mrl_jax\[index\]"
    with pytest.raises(MrlError, match=line):
        SearchIndex.from_vectors(VECTORS, NAMES, backend=name)
    with pytest.raises(MrlError, match=line):
        SearchIndex.load(tmp_path / "index")


@pytest.mark.parametrize("name", BACKENDS)
def test_a_damaged_file_of_a_backend_is_one_line(name, tmp_path):
    SearchIndex.from_vectors(VECTORS, NAMES, backend=name).save(tmp_path / "index")
    (tmp_path / "index" / "first").write_bytes(b"12345678")
    with pytest.raises(MrlError, match="not the file that was written"):
        SearchIndex.load(tmp_path / "index")
    with pytest.raises(MrlError, match="cannot be read as an index of vectors"):
        SearchIndex.load(tmp_path / "index", verify=False)
