"""LlamaIndex's own index in memory over a model, without any language model."""

import asyncio

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError

pytest.importorskip("llama_index.core")

from llama_index.core import QueryBundle, VectorStoreIndex
from llama_index.core.schema import TextNode

from mrl_jax.integrations.llama_index import MrlEmbedding


@pytest.fixture(scope="module")
def model(embedder) -> MrlEmbedding:
    return MrlEmbedding(embedder, task="find", embed_batch_size=7)


@pytest.fixture(scope="module")
def retriever(model, documents):
    nodes = [TextNode(id_=row["id"], text=row["text"]) for row in documents[:25]]
    return VectorStoreIndex(nodes, embed_model=model).as_retriever(similarity_top_k=3)


def test_its_index_finds_what_ours_finds(model, retriever, index, recordings):
    only = {"filter": lambda row: row["id"] != "l'été", "k": 3}
    expected = index.search(audio=recordings, task="find", **only)
    for path, hits in zip(recordings, expected, strict=True):
        vector = model.get_audio_embedding(path)
        nodes = retriever.retrieve(QueryBundle("spoken", embedding=vector))
        assert [node.node_id for node in nodes] == [hit.id for hit in hits]
        scores = [node.score for node in nodes]
        np.testing.assert_allclose(scores, [hit.score for hit in hits], atol=1e-5)
    assert len({tuple(hit.id for hit in hits) for hits in expected}) > 1
    nodes = retriever.retrieve("fo di")
    hits = index.search(text=["fo di"], task="find", **only)[0]
    assert [node.node_id for node in nodes] == [hit.id for hit in hits]


def test_queries_have_a_prompt_and_texts_none(embedder, model):
    query, text = model.get_query_embedding("fo di"), model.get_text_embedding("fo di")
    np.testing.assert_allclose([query], embedder.embed_text(["fo di"], task="find"), atol=1e-6)
    np.testing.assert_allclose([text], embedder.embed_text(["fo di"]), atol=1e-6)
    assert np.abs(np.subtract(query, text)).max() > 1e-3
    assert len(MrlEmbedding(embedder, dim=8).get_text_embedding("fo")) == 8
    assert model.model_name == embedder.folder.name
    assert model.class_name() == "MrlEmbedding"


def test_the_asynchronous_methods_give_the_same(model, recordings):
    async def ask():
        return await asyncio.gather(
            model.aget_query_embedding("fo"),
            model.aget_text_embedding_batch(["fo", "di ba"]),
            model.aget_audio_embedding(recordings[0]),
        )

    query, texts, spoken = asyncio.run(ask())
    np.testing.assert_allclose(query, model.get_query_embedding("fo"), atol=1e-6)
    expected = model.get_text_embedding_batch(["fo", "di ba"])
    np.testing.assert_allclose(texts, expected, atol=1e-6)
    np.testing.assert_allclose(spoken, model.get_audio_embedding(recordings[0]), atol=1e-6)


def test_bad_input_is_refused_in_one_line(embedder, model, broken):
    with pytest.raises(MrlError, match="no prompt for 'buy'"):
        MrlEmbedding(embedder, task="buy")
    with pytest.raises(MrlError, match="dim is 99"):
        MrlEmbedding(embedder, dim=99)
    with pytest.raises(MrlError, match=r"broken\.wav"):
        model.get_audio_embedding(broken)
    with pytest.raises(MrlError, match="is empty"):
        model.get_query_embedding("")
