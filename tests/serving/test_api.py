"""The HTTP API on loopback, as clients of other services ask it, and vectors of the library."""

import base64
import concurrent.futures
import io
import json
import socket
import time

import httpx
import numpy as np
import pytest
import soundfile
import tiny_run
from loopback_service import serving
from serving_cases import TEXTS

from mrl_jax.inference.index.search_index import SearchIndex
from mrl_jax.serving.config import ServeConfig

CONFIG = ServeConfig(max_seconds=3.0, max_body_mb=1.0, body_seconds=1.0, max_inputs=8)


def wav(words=(1, 3), seed=5) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tiny_run.clip_of(words, seed), tiny_run.RATE, "FLOAT", format="WAV")
    return file.getvalue()


def uri(data: bytes) -> str:
    return "data:audio/wav;base64," + base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def service(index):
    with serving(index, CONFIG) as (url, engine), httpx.Client(base_url=url, timeout=60) as client:
        yield client, engine


@pytest.fixture
def client(service):
    return service[0]


def vectors(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    body = response.json()
    assert [row["index"] for row in body["data"]] == list(range(len(body["data"])))
    return np.array([row["embedding"] for row in body["data"]], np.float32)


def refused(response: httpx.Response, status: int, *parts: str) -> str:
    assert response.status_code == status, response.text
    message = response.json()["error"]["message"]
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def test_texts_are_embedded_as_the_library_does(client, index):
    embedder = index.embedder
    for body, expected in (
        ({"input": "ba ce"}, embedder.embed_text(["ba ce"])),
        ({"input": TEXTS[:5]}, embedder.embed_text(TEXTS[:5])),
        ({"input": "ba", "dimensions": 8, "model": "any"}, embedder.embed_text(["ba"], dim=8)),
        ({"input": "ba", "task": "find"}, embedder.embed_text(["ba"], task="find")),
        ({"input": "ba", "prompt": "gu "}, embedder.embed_text(["ba"], prompt="gu ")),
        ({"messages": [{"role": "user", "content": "ba"}]}, embedder.embed_text(["ba"])),
        ({"input": "ba", "user": "someone"}, embedder.embed_text(["ba"])),
    ):
        response = client.post("/v1/embeddings", json=body)
        np.testing.assert_allclose(vectors(response), expected, atol=1e-6)
    other = vectors(client.post("/v1/embeddings", json={"input": "gu gu"}))
    assert np.abs(other - embedder.embed_text(["ba ce"])).max() > 1e-2
    assert response.json()["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_base64_is_little_endian_float32(client):
    plain = vectors(client.post("/v1/embeddings", json={"input": ["ba", "gu"]}))
    body = {"input": ["ba", "gu"], "encoding_format": "base64"}
    rows = client.post("/v1/embeddings", json=body).json()["data"]
    coded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]
    np.testing.assert_array_equal(np.stack(coded), plain)


def test_recordings_are_embedded_as_infinity_and_vllm_have_them(client, index):
    embedder = index.embedder
    expected = embedder.embed_speech([(tiny_run.clip_of((1, 3), 5), tiny_run.RATE)])
    data = base64.b64encode(wav()).decode()
    parts = (
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": uri(wav())}},
    )
    bodies = [{"input": uri(wav()), "modality": "audio"}, {"input": [data], "modality": "audio"}]
    bodies += [{"messages": [{"role": "user", "content": [part]}]} for part in parts]
    for body in bodies:
        response = client.post("/v1/embeddings", json=body)
        np.testing.assert_allclose(vectors(response), expected, atol=1e-6)
    other = client.post("/v1/embeddings", json={"input": uri(wav((0, 2))), "modality": "audio"})
    assert np.abs(vectors(other) - expected).max() > 1e-3


def test_openais_own_client(service):
    openai = pytest.importorskip("openai")
    client, engine = service
    own = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
    made = own.embeddings.create(model="mrl_jax", input=["ba", "gu"], dimensions=16)
    expected = engine.embedder.embed_text(["ba", "gu"], dim=16)
    np.testing.assert_allclose([row.embedding for row in made.data], expected, atol=1e-6)
    assert [one.id for one in own.models.list()] == ["model"]
    with pytest.raises(openai.BadRequestError, match="expected 1 to 32"):
        own.embeddings.create(model="mrl_jax", input="ba", dimensions=99)


def test_a_search_finds_what_the_index_finds(client, index):
    clip = (tiny_run.clip_of((1, 3), 5), tiny_run.RATE)
    (expected,) = index.search(audio=[clip], k=4)
    for options in (
        {"files": {"file": ("q.wav", wav())}, "data": {"k": "4"}},
        {"json": {"audio": uri(wav()), "k": 4}},
        {"content": wav(), "params": {"k": 4}, "headers": {"content-type": "audio/wav"}},
    ):
        body = client.post("/search", **options).json()
        assert [hit["id"] for hit in body["hits"]] == [hit.id for hit in expected]
        scores = [hit["score"] for hit in body["hits"]]
        np.testing.assert_allclose(scores, [hit.score for hit in expected], atol=1e-6)
    (expected,) = index.search(text=["fo ba"], k=3, task="find")
    body = client.post("/search", json={"text": "fo ba", "k": 3, "task": "find"}).json()
    assert [hit["id"] for hit in body["hits"]] == [hit.id for hit in expected]
    assert body["hits"][0]["fields"] == dict(expected[0].fields)
    assert body["bytes_per_document"] == 32 * 4


def test_a_prefix_of_the_vectors_is_searched(client, index):
    embedder = index.embedder
    narrow = SearchIndex.build(embedder, [{"id": f"d{i}", "text": t} for i, t in enumerate(TEXTS)],
                               dim=8)  # fmt: skip
    (expected,) = narrow.search(text=["gu ba"], k=5)
    body = client.post("/search", json={"text": "gu ba", "k": 6, "dim": 8}).json()
    found = [hit for hit in body["hits"] if hit["id"] != "long"][:5]
    assert [hit["id"] for hit in found] == [hit.id for hit in expected]
    assert (body["dim"], body["bytes_per_document"]) == (8, 32)
    message = refused(client.post("/search", json={"text": "a", "dim": 7}), 400)
    assert message == "dim is 7, expected one of 32, 16, 8"


def test_the_nearest_sentence_is_named(client, index):
    body = client.post("/search", json={"text": "di di", "k": 26, "highlight": True}).json()
    (hit,) = (hit for hit in body["hits"] if hit["id"] == "long")
    sentences = ["ba ce.", "Fo gu!", "di di"]
    query = index.embedder.embed_text(["di di"])[0]
    best = sentences[int(np.argmax(index.embedder.embed_text(sentences) @ query))]
    assert hit["text"][slice(*hit["highlight"])] == best == "di di"
    assert all(hit["highlight"] is None for hit in body["hits"] if hit["id"] != "long")
    plain = client.post("/search", json={"text": "di di", "k": 26}).json()
    assert [hit["highlight"] for hit in plain["hits"]] == [None] * 26


BAD_EMBEDDINGS = {
    "no JSON": (b"{", "Invalid JSON"),
    "not UTF-8": (b'"\xff"', "JSON"),
    "deep": (b"[" * 100_000, "JSON"),
    "nothing": ({}, "one of `input` and `messages`"),
    "both": ({"input": "a", "messages": [{"content": "a"}]}, "one of `input` and `messages`"),
    "number": ({"input": 3}, "input"),
    "tokens": ({"input": [[1, 2]]}, "input"),
    "no inputs": ({"input": []}, "0 inputs"),
    "many": ({"input": ["a"] * 9}, "9 inputs, expected 1 to 8"),
    "empty": ({"input": ["a", " "]}, "input 1: the text is empty"),
    "long": ({"input": "a" * 30_000}, "30000 characters"),
    "surrogate": ({"input": "\ud800"}, "JSON"),
    "dim": ({"input": "a", "dimensions": 33}, "dimensions is 33, expected 1 to 32"),
    "dim 0": ({"input": "a", "dimensions": 0}, "dimensions"),
    "dim float": ({"input": "a", "dimensions": 8.0}, "dimensions"),
    "format": ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    "task": ({"input": "a", "task": "fnd"}, "fnd"),
    "task and prompt": ({"input": "a", "task": "find", "prompt": "b"}, "both task and prompt"),
    "address": ({"input": "http://127.0.0.1/a.wav", "modality": "audio"}, "addresses are not"),
    "file": ({"input": "file:///etc/passwd", "modality": "audio"}, "addresses are not read"),
    "plain data": ({"input": "data:audio/wav,abc", "modality": "audio"}, "without ;base64"),
    "no base64": ({"input": "a!", "modality": "audio"}, "input 0: is no base64"),
    "no audio": ({"input": uri(b"<html>"), "modality": "audio"}, "cannot be decoded"),
    "two parts": ({"messages": [{"content": "a"}, {"content": "b"}]}, "2 parts"),
    "empty part": ({"messages": [{"content": [{"type": "text"}]}]}, "has no text"),
}


@pytest.mark.parametrize("case", BAD_EMBEDDINGS)
def test_bad_requests_for_embeddings_are_one_line(case, client):
    body, part = BAD_EMBEDDINGS[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused(client.post("/v1/embeddings", content=content), 400, part)


def test_bad_searches_are_one_line(client):
    refused(client.post("/search", json={}), 400, "expected one of text, audio and a file")
    refused(client.post("/search", json={"text": "a", "audio": "b"}), 400, "expected one of")
    refused(client.post("/search", json={"text": "a", "kk": 3}), 400, "kk")
    refused(client.post("/search", json={"text": "a", "k": 27}), 400, "k is 27", "26 documents")
    refused(client.post("/search", data={"text": "a", "k": "x"}), 400, "k: ")
    refused(client.post("/search", json={"text": " "}), 400, "the text is empty")
    files = {"file": ("q.wav", wav()[:-100])}
    refused(client.post("/search", files=files), 400, "the recording", "truncated")
    refused(client.post("/search", files={"file": ("q.wav", b"")}), 400, "the recording")
    file = io.BytesIO()
    soundfile.write(file, np.full(8000 * 4, 0.1, np.float32), 8000, format="FLAC")
    long = client.post("/search", files={"file": ("q.flac", file.getvalue())})
    refused(long, 400, "4.0 s, and 3 s are the limit")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/search", content=b"--x\r\nbroken", headers=headers), 400)
    refused(client.get("/search"), 405)
    refused(client.get("/nowhere"), 404)


def test_the_other_pages(client, index):
    assert client.get("/healthz").json() == {"status": "ok", "documents": 26}
    info = client.get("/info").json()
    assert (info["dims"], info["documents"], info["tasks"]) == ([32, 16, 8], 26, ["", "find"])
    client.post("/search", json={"text": "ba"})
    text = client.get("/metrics").text
    assert 'mrl_requests_total{path="/search",status="200"}' in text
    assert "mrl_documents 26.0" in text
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.js", "style.css", "words.js", "recorder.js", "capture.js", "icon.svg"):
        assert client.get(f"/page/{name}").status_code == 200
    assert client.get("/page/../config.py").status_code == 404
    assert client.get("/page/%2e%2e/config.py").status_code == 404


def test_bodies_beyond_the_limits(service):
    client, _ = service
    refused(client.post("/search", content=b"x" * 1_000_001), 413, "more than 1 MB")

    def chunks():
        for _ in range(11):
            yield b"x" * 100_000

    refused(client.post("/search", content=chunks()), 413, "more than 1 MB")
    with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
        slow.sendall(b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        begun = time.monotonic()
        slow.settimeout(10)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        assert 0.5 < time.monotonic() - begun < 5
    with socket.create_connection((client.base_url.host, client.base_url.port)) as cut:
        cut.sendall(b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
    assert client.get("/healthz").status_code == 200


def test_many_clients_at_once_get_their_own_answers(service, index):
    client, engine = service
    texts = [f"{a} {b}" for a in tiny_run.WORDS for b in tiny_run.WORDS] * 2
    expected = index.embedder.embed_text(texts)

    def ask(text: str) -> np.ndarray:
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            return vectors(own.post("/v1/embeddings", json={"input": text}))[0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = np.stack(list(pool.map(ask, texts)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert engine.waiting == 0


def test_a_key_a_rate_and_a_full_queue(index):
    config = ServeConfig(api_key="secret", requests_per_minute=3, queue_size=2, max_inputs=2)
    with serving(index, config) as (url, engine), httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        for headers in ({}, {"authorization": "Bearer secre"}, {"authorization": "secret"}):
            refused(client.get("/info", headers=headers), 401, "API key")
        client.headers["authorization"] = "Bearer secret"
        # Nothing else is computed until the gate opens.
        original, begun = engine._batcher._run, time.monotonic()
        engine._batcher._run = lambda work, inputs: (time.sleep(0.5), original(work, inputs))[1]
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            asked = [
                pool.submit(client.post, "/v1/embeddings", json={"input": ["a", "b"]})
                for _ in range(3)
            ]
            found = sorted(future.result().status_code for future in asked)
        assert found == [200, 429, 429] or found == [200, 200, 429]
        response = client.get("/info")
        refused(response, 429, "3 a minute")
        assert 0 < int(response.headers["retry-after"]) <= 20
        assert time.monotonic() - begun < 30


def test_nothing_is_compiled_after_the_warm_up(index):
    config = ServeConfig(batch_size=4, warm_seconds=1.2, warm_tokens=16)
    with serving(index, config, warm=True) as (url, engine), httpx.Client(base_url=url) as client:
        assert engine.compilations == 0

        def ask(number: int) -> int:
            body = {"k": 3, "dim": (32, 16, 8)[number % 3]}
            question = {"text": TEXTS[number]} if number % 2 else {"audio": uri(wav())}
            return client.post("/search", json=body | question, timeout=60).status_code

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(24))) == {200}
        assert engine.compilations == 0
        client.post("/search", json={"text": "ba " * 40, "k": 3}, timeout=60)
        assert engine.compilations > 0
