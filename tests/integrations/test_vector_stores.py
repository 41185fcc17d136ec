"""Qdrant and LanceDB in local mode find what the exact search of the index finds."""

import socket
from typing import Any

import numpy as np
import pytest
import tiny_run
from serving_cases import TEXTS

from mrl_jax.core.errors import MrlError
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.search_index import SearchIndex

pytest.importorskip("qdrant_client")
pytest.importorskip("lancedb")

import lancedb
import pyarrow
from qdrant_client import QdrantClient, models

from mrl_jax.integrations.lancedb import LanceStore
from mrl_jax.integrations.qdrant import QdrantStore
from mrl_jax.integrations.vector_store import VectorStore

KINDS = ("qdrant", "lancedb")


def new_store(kind: str, folder, **options) -> VectorStore:
    if kind == "qdrant":
        return QdrantStore(QdrantClient(":memory:"), "sentences", **options)
    return LanceStore(lancedb.connect(folder / "lance"), "sentences", **options)


def again(store: VectorStore, embedder: Embedder | None = None) -> VectorStore:
    """The same store, opened anew."""
    if isinstance(store, QdrantStore):
        return QdrantStore(store.client, store.collection, embedder=embedder)
    assert isinstance(store, LanceStore)
    return LanceStore(store.connection, store.name, embedder=embedder)


def of_kind(store: VectorStore, kind: int):
    """A filter of each store for documents whose field `kind` has a value."""
    if isinstance(store, QdrantStore):
        match = models.MatchValue(value=kind)
        return models.Filter(must=[models.FieldCondition(key="fields.kind", match=match)])
    return f"fields LIKE '%\"kind\": {kind}}}%'"


@pytest.fixture(scope="module", params=KINDS)
def store(request, index, tmp_path_factory) -> VectorStore:
    store = new_store(request.param, tmp_path_factory.mktemp("store"))
    assert len(store) == 0
    assert store.load(index, batch_size=10) == len(index) == len(store)
    return store


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    for hits, wanted in zip(found, expected, strict=True):
        assert [hit.document for hit in hits] == [hit.document for hit in wanted]
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose(scores, [hit.score for hit in wanted], atol=1e-5)


def test_speech_text_and_vectors_find_what_the_index_finds(store, index, recordings):
    samples = (tiny_run.clip_of((3, 1), 9), tiny_run.RATE)
    spoken = index.search(audio=[*recordings, samples], k=5, task="find")
    assert_same(store.search(audio=[*recordings, samples], k=5, task="find"), spoken)
    assert len({hits[0].id for hits in spoken}) > 1
    written = index.search(text=["fo di", "gu ba"], k=26)
    assert_same(store.search(text=["fo di", "gu ba"], k=26), written)
    assert any(hit.span == (3, 8) and hit.title == "fo" for hit in written[0])
    vectors = np.random.default_rng(0).standard_normal((3, index.dim)).astype(np.float32)
    assert_same(store.search(vectors, k=4), index.search(vectors, k=4))
    assert store.search(vectors[:0]) == []
    with pytest.raises(AssertionError):
        assert_same(store.search(vectors, k=4), index.search(-vectors, k=4))


def test_a_filter_of_the_store_chooses_documents(store, index):
    expected = index.search(text=["fo di"], k=5, filter=lambda row: row["kind"] == 1)
    assert_same(store.search(text=["fo di"], k=5, filter=of_kind(store, 1)), expected)


def test_loading_again_changes_nothing_and_replaces_what_changed(store, index, embedder):
    vectors = np.eye(index.dim, dtype=np.float32)[:2]
    before = store.search(vectors, k=26)
    store.load(index, batch_size=7)
    assert len(store) == 26
    assert_same(store.search(vectors, k=26), before)
    other = again(store, embedder)
    changed = {"id": "d3", "text": "ce ce ce", "kind": 5}
    assert other.add([changed]) == 1
    assert len(store) == 26
    hits = other.search(text=["ce ce ce"], k=1)
    assert (hits[0][0].id, hits[0][0].text, hits[0][0].fields) == ("d3", "ce ce ce", {"kind": 5})
    store.load(index)
    assert_same(store.search(vectors, k=26), before)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_embedded_at_a_dim(kind, embedder, recordings, tmp_path):
    store = new_store(kind, tmp_path, embedder=embedder)
    store.add(TEXTS[:9], dim=8)
    store.add([{"id": "more", "text": "gu gu"}])  # At the dim that is there.
    documents = [*({"id": str(n), "text": text} for n, text in enumerate(TEXTS[:9]))]
    expected = SearchIndex.build(embedder, [*documents, {"id": "more", "text": "gu gu"}], dim=8)
    found = store.search(audio=recordings, k=4)
    assert_same(found, expected.search(audio=recordings, k=4))
    assert_same(again(store, embedder).search(audio=recordings, k=4), found)
    shorter = new_store(kind, tmp_path / "short")
    shorter.load(SearchIndex.build(embedder, documents), dim=16)
    narrow = SearchIndex.build(embedder, documents, dim=16)
    assert_same(shorter.search(audio=recordings, k=4), narrow.search(audio=recordings, k=4))


def test_bad_input_is_refused_in_one_line(store, embedder, index, broken, tmp_path):
    where = "the collection" if isinstance(store, QdrantStore) else "the table"
    with pytest.raises(MrlError, match=f"{where} 'sentences': has vectors of 32 coord.*index of 8"):
        store.load(index, dim=8)
    with pytest.raises(MrlError, match="vectors have 5 coordinates, and the index 32"):
        store.search(np.ones((1, 5), np.float32))
    with pytest.raises(MrlError, match=r"broken\.wav") as error:
        store.search(audio=[broken])
    assert "\n" not in str(error.value)
    with pytest.raises(MrlError, match="expected one of vectors, audio and text"):
        store.search()
    with pytest.raises(MrlError, match="no model was given to embed with"):
        again(store).search(text=["fo"])
    with pytest.raises(MrlError, match="there is no document to index"):
        again(store, embedder).add([])
    other = Embedder.load(tiny_run.make_dual_encoder(tmp_path))
    with pytest.raises(MrlError, match="is the index of another model"):
        again(store, other).search(text=["fo"])
    with pytest.raises(MrlError, match="holds vectors of another model"):
        store.load(SearchIndex.build(other, TEXTS[:2]))
    with pytest.raises(MrlError, match="k is 0, expected 1 or more"):
        store.search(text=["fo"], k=0)
    assert len(store) == 26


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_is_not_there_or_empty_is_refused(kind, index, tmp_path):
    store = new_store(kind, tmp_path)
    with pytest.raises(MrlError, match=r"'sentences': is not there\. Load an index into it first"):
        store.search(np.ones((1, 32), np.float32))
    store.load(index)
    if isinstance(store, QdrantStore):
        store.client.delete("sentences", points_selector=models.Filter())
    else:
        assert isinstance(store, LanceStore)
        store.connection.open_table("sentences").delete("true")
    with pytest.raises(MrlError, match="'sentences': holds no documents"):
        store.search(np.ones((1, 32), np.float32))


def test_collections_and_tables_of_others_are_refused(index, tmp_path):
    client = QdrantClient(":memory:")
    size = models.VectorParams(size=32, distance=models.Distance.EUCLID)
    client.create_collection("far", vectors_config=size)
    client.create_collection("many", vectors_config={"a": size})
    with pytest.raises(MrlError, match="'far': compares by Euclid, expected Cosine"):
        QdrantStore(client, "far").load(index)
    with pytest.raises(MrlError, match="'many': has several vectors"):
        QdrantStore(client, "many").load(index)
    cosine = models.VectorParams(size=32, distance=models.Distance.COSINE)
    client.create_collection("by hand", vectors_config=cosine)
    point = models.PointStruct(id=1, vector=[1.0] * 32, payload={"page": "no text"})
    client.upsert("by hand", points=[point])
    with pytest.raises(MrlError, match="holds what is no document of ours"):
        QdrantStore(client, "by hand").search(np.ones((1, 32), np.float32))
    assert QdrantStore(client, "by hand").load(index) == 26  # Which settings it has, is its own.
    connection = lancedb.connect(tmp_path)
    connection.create_table("plain", pyarrow.table({"name": ["a"]}))
    with pytest.raises(MrlError, match="'plain': is no table of an index, with the columns name"):
        LanceStore(connection, "plain").load(index)


def test_more_than_there_is_may_be_asked_for(store, index):
    vectors = np.eye(index.dim, dtype=np.float32)[:1]
    assert_same(store.search(vectors, k=2**40), index.search(vectors, k=26))


def test_what_the_library_of_a_store_refuses_is_said_in_one_line(store, index, tmp_path):
    vectors = np.eye(index.dim, dtype=np.float32)[:1]
    with pytest.raises(MrlError, match="'sentences': the filter is int, expected a"):
        store.search(vectors, filter=3)
    with socket.socket() as taken:  # Bound, and nobody listens.
        taken.bind(("127.0.0.1", 0))
        if isinstance(store, QdrantStore):
            place = f"http://127.0.0.1:{taken.getsockname()[1]}"
            client = QdrantClient(place, check_compatibility=False)
            with pytest.raises(MrlError, match=r"'far': cannot be read \(.*refused") as error:
                QdrantStore(client, "far").load(index)
        else:
            with pytest.raises(MrlError, match=r"cannot search \(.*is \( not"):
                store.search(vectors, filter="this is ( not SQL")
            connection = lancedb.connect(tmp_path)
            with pytest.raises(MrlError, match=r"'a/b': cannot be made \(") as error:
                LanceStore(connection, "a/b").load(index)
    assert "\n" not in str(error.value)


def test_qdrant_gets_no_request_larger_than_its_servers_take():
    class Counting(QdrantClient):
        def upsert(self, *args: Any, **options: Any) -> Any:
            sizes.append(len(options["points"].ids))
            return super().upsert(*args, **options)

    sizes: list[int] = []
    vectors = np.random.default_rng(0).standard_normal((40, 16_384), np.float32)
    index = SearchIndex.from_vectors(vectors, [{"id": f"d{n}", "text": "fo"} for n in range(40)])
    store = QdrantStore(Counting(":memory:"), "wide")
    assert store.load(index) == 40 == len(store)
    assert sizes == [32, 8]
    assert [hits[0].id for hits in store.search(vectors[30:34], k=1)] == [
        "d30",
        "d31",
        "d32",
        "d33",
    ]
