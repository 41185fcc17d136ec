"""LangChain's own vector store over a model, asked by text and by speech."""

import asyncio

import numpy as np
import pytest
import tiny_run

from mrl_jax.core.errors import MrlError

pytest.importorskip("langchain_core")

from langchain_core.vectorstores import InMemoryVectorStore

from mrl_jax.integrations.langchain import MrlEmbeddings


@pytest.fixture(scope="module")
def store(embedder, documents) -> InMemoryVectorStore:
    store = InMemoryVectorStore(MrlEmbeddings(embedder, task="find"))
    texts = [document["text"] for document in documents[:25]]
    store.add_texts(texts, ids=[document["id"] for document in documents[:25]])
    return store


def test_the_store_finds_what_the_index_finds(store, index, recordings):
    clips = [recordings[0], tiny_run.clip_of((3, 1), 9)]
    pairs = [str(clips[0]), (clips[1], tiny_run.RATE)]
    vectors = MrlEmbeddings(index.embedder, task="find").embed_audio(pairs)
    only = {"filter": lambda row: row["id"] != "l'été", "k": 3}
    expected = index.search(audio=pairs, task="find", **only)
    for vector, hits in zip(vectors, expected, strict=True):
        found = store.similarity_search_by_vector(vector, k=3)
        assert [one.id for one in found] == [hit.id for hit in hits]
        assert [one.page_content for one in found] == [hit.text for hit in hits]
    assert [hit.id for hit in expected[0]] != [hit.id for hit in expected[1]]
    written = store.similarity_search_with_score("fo di", k=3)
    hits = index.search(text=["fo di"], task="find", **only)[0]
    assert [one.id for one, _ in written] == [hit.id for hit in hits]
    scores = [score for _, score in written]
    np.testing.assert_allclose(scores, [hit.score for hit in hits], atol=1e-5)


def test_queries_have_the_prompt_of_their_task_and_documents_none(embedder, folder):
    found = MrlEmbeddings(str(folder), task="find", dim=8)
    query, document = found.embed_query("fo di"), found.embed_documents(["fo di"])
    expected = embedder.embed_text(["fo di"], task="find", dim=8)
    np.testing.assert_allclose([query], expected, atol=1e-6)
    np.testing.assert_allclose(document, embedder.embed_text(["fo di"], dim=8), atol=1e-6)
    assert np.abs(np.subtract(query, document[0])).max() > 1e-3
    own = MrlEmbeddings(embedder, prompt="gu gu ").embed_query("fo di")
    np.testing.assert_allclose([own], embedder.embed_text(["gu gu fo di"]), atol=1e-6)


def test_the_asynchronous_methods_give_the_same(embedder, recordings):
    model = MrlEmbeddings(embedder)

    async def ask():
        return await asyncio.gather(
            model.aembed_query("fo"), model.aembed_audio(recordings[:1]), model.aembed_documents([])
        )

    query, spoken, none = asyncio.run(ask())
    np.testing.assert_allclose(query, model.embed_query("fo"), atol=1e-6)
    np.testing.assert_allclose(spoken, model.embed_audio(recordings[:1]), atol=1e-6)
    assert none == [] == model.embed_audio([])


def test_bad_input_is_refused_in_one_line(embedder, recordings, broken):
    with pytest.raises(MrlError, match=r"task 'buy': the model in .* no prompt.*only for find"):
        MrlEmbeddings(embedder, task="buy")
    with pytest.raises(MrlError, match="both prompt and task"):
        MrlEmbeddings(embedder, task="find", prompt="ba")
    with pytest.raises(MrlError, match="dim is 99, expected 1 to 32"):
        MrlEmbeddings(embedder, dim=99)
    with pytest.raises(MrlError, match=r"model\.json: no such file"):
        MrlEmbeddings(broken.parent / "none")
    model = MrlEmbeddings(embedder)
    with pytest.raises(MrlError, match="the question 0 is empty"):
        model.embed_query("  ")
    with pytest.raises(MrlError, match=r"broken\.wav") as error:
        model.embed_audio([recordings[0], broken])
    assert "\n" not in str(error.value)
    with pytest.raises(MrlError, match="expected a list"):
        model.embed_audio(str(recordings[0]))
