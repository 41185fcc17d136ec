"""Requests that mean harm, and models and indexes that are out of the ordinary."""

import asyncio
import dataclasses
import io
import itertools
import socket
import threading
import time
import warnings

import httpx
import numpy as np
import pytest
import soundfile
import tiny_run
from loopback_service import serving
from serving_cases import TEXTS

from mrl_jax.core.errors import MrlError
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.search_index import SearchIndex
from mrl_jax.serving.batcher import QueueFullError
from mrl_jax.serving.config import ServeConfig
from mrl_jax.serving.engine import Engine, Work
from mrl_jax.serving.limits import Limits
from mrl_jax.serving.requests import EmbeddingsRequest, SearchRequest, parse

SMALL = ServeConfig(batch_size=4, warm_seconds=1.0, warm_tokens=16, queue_size=8, max_inputs=8)


@pytest.fixture(scope="module")
def client(index):
    config = ServeConfig(
        max_seconds=3.0, max_body_mb=1.0, header_seconds=0.3, queue_size=8, max_inputs=8, max_hits=5
    )
    with serving(index, config) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        yield client


def message(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"input":[' + b"1," * 400_000 + b"1]}",
        b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}",
        b'{"messages":[{"content":[' + b"{}," * 200_000 + b"{}]}]}",
    ],
    ids=["numbers", "names", "parts"],
)
def test_a_body_of_many_values_is_refused_before_each_is_complained_about(body):
    for model in (EmbeddingsRequest, SearchRequest):
        begun = time.process_time()
        with pytest.raises(MrlError, match="more than 20,000 values"):
            parse(model, body)
        assert time.process_time() - begun < 1


def test_a_prompt_is_no_longer_than_a_text(client):
    body = {"input": "a", "prompt": "a" * 30_000}
    assert "30000 characters" in message(client.post("/v1/embeddings", json=body), 400)
    body = {"text": "a", "prompt": "a" * 30_000}
    assert "30000 characters" in message(client.post("/search", json=body), 400)


@pytest.mark.parametrize("charset", ["punycode", "undefined", "unicode_escape"])
def test_a_form_in_a_strange_charset(charset, client):
    part = b'--x\r\ncontent-disposition: form-data; name="text"\r\n\r\n\\ud800 a\r\n--x--\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    assert "\n" not in message(client.post("/search", content=part, headers=headers), 400)


def test_documents_of_an_answer_are_limited(client):
    assert "k is 6, expected 1 to 5" in message(
        client.post("/search", json={"text": "a", "k": 6}), 400
    )


def test_a_search_that_names_no_number_finds_what_there_is(client):
    assert len(client.post("/search", json={"text": "a"}).json()["hits"]) == 5


def test_highlights_fit_into_a_short_queue(model):
    long = {"id": "long", "text": " ".join(["ba ce."] * 20)}
    index = SearchIndex.build(Embedder.load(model), [long, {"id": "short", "text": "di di. fo."}])
    with serving(index, SMALL) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post("/search", json={"text": "di", "k": 2, "highlight": True})
        assert answer.status_code == 200, answer.text
        spans = {hit["id"]: hit["highlight"] for hit in answer.json()["hits"]}
    assert spans["long"] is None
    assert spans["short"] is not None


def test_recordings_are_not_decoded_where_the_queue_has_no_room(index):
    engine = Engine(index, SMALL)
    try:
        with engine.decoding(6):
            with pytest.raises(QueueFullError), engine.decoding(3):
                pass
            with engine.decoding(2):
                pass
        with engine.decoding(8):
            pass
    finally:
        engine.stop()


def test_bodies_that_arrive_at_once_are_limited_together():
    config = ServeConfig(max_body_mb=1e-3)
    statuses: list[int] = []
    held = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await held.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(limits: Limits) -> None:
        async def receive():
            return {"type": "http.request", "body": b"x" * 1000}

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/search",
            "headers": [(b"host", b"localhost")],
        }
        await limits(scope, receive, send)

    async def run() -> None:
        limits = Limits(app, config=config)
        tasks = [asyncio.create_task(ask(limits)) for _ in range(50)]
        await asyncio.sleep(0.05)
        held.set()
        await asyncio.gather(*tasks)
        await ask(limits)

    asyncio.run(run())
    assert sorted(statuses) == [200] * 41 + [503] * 10


def test_connections_without_a_request_are_closed(client):
    place = client.base_url.host, client.base_url.port
    with socket.create_connection(place) as silent, socket.create_connection(place) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nhost:")
        for one in (silent, slow):
            one.settimeout(5)
            assert one.recv(100) == b""
    with socket.create_connection(place) as second:
        second.settimeout(5)
        second.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b'"ok"' in second.recv(4096)
        second.sendall(b"GET /healthz HTTP/1.1\r\nhost:")
        assert second.recv(100) == b""


def test_every_file_of_the_page_has_its_headers(client):
    for path in ("/", "/page/page.js", "/page/index.html"):
        response = client.get(path)
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"


def test_failures_and_refusals_are_counted(index):
    with serving(index, SMALL) as (url, engine), httpx.Client(base_url=url, timeout=60) as client:

        def fail(work, inputs):
            raise ZeroDivisionError

        engine._batcher._run = fail
        assert "ZeroDivisionError" in message(client.post("/search", json={"text": "ba"}), 500)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as large:
            large.sendall(
                b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"
            )
            large.settimeout(10)
            assert large.recv(100).startswith(b"HTTP/1.1 413")
        text = client.get("/metrics").text
    assert 'mrl_requests_total{path="/search",status="500"} 1.0' in text
    assert 'mrl_refused_total{status="413"} 1.0' in text


def test_an_index_of_signs_is_served_at_its_own_dim(model):
    index = SearchIndex.build(Embedder.load(model), TEXTS, precision="binary")
    with serving(index, SMALL, warm=True) as (url, _), httpx.Client(base_url=url) as client:
        assert client.get("/info").json()["dims"] == [32]
        assert client.post("/search", json={"text": "ba", "k": 3}).status_code == 200
        assert "expected one of 32" in message(
            client.post("/search", json={"text": "a", "dim": 8}), 400
        )


def test_a_dual_encoder_with_a_vector_for_each_dim(tmp_path):
    embedder = Embedder.load(tiny_run.make_dual_encoder(tmp_path, dims=(16, 8)))
    index = SearchIndex.build(embedder, TEXTS)
    clip = tiny_run.clip_of((1, 3), 5)
    file = io.BytesIO()
    soundfile.write(file, clip, tiny_run.RATE, "FLOAT", format="WAV")
    with serving(index, SMALL, warm=True) as (url, _), httpx.Client(base_url=url) as client:
        assert client.get("/info").json()["dims"] == [16, 8]
        for dim in (16, 8):
            narrow = SearchIndex.build(embedder, TEXTS, dim=dim)
            (expected,) = narrow.search(audio=[(clip, tiny_run.RATE)], k=3)
            files = {"file": ("q.wav", file.getvalue())}
            found = client.post("/search", files=files, data={"k": 3, "dim": dim}).json()["hits"]
            assert [hit["id"] for hit in found] == [hit.id for hit in expected]
        body = {"input": "a", "dimensions": 7}
        assert "no query vector for the dimension 7" in message(
            client.post("/v1/embeddings", json=body), 400
        )


def test_neighbours_do_not_change_a_vector_whose_padding_is_read_as_speech(tmp_path):
    embedder = Embedder.load(tiny_run.make_model(tmp_path, padding="reference"))
    index = SearchIndex.build(embedder, TEXTS)
    clips = [tiny_run.clip_of(words, 3) for words in ((1, 3), (0, 1, 2, 3, 4, 0, 1))]
    alone = [embedder.embed_speech([(clip, tiny_run.RATE)])[0] for clip in clips]
    engine = Engine(index, SMALL)
    try:
        found = engine._run(Work(kind="speech", dim=32), clips)
    finally:
        engine.stop()
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_nothing_is_compiled_for_a_task_after_the_warm_up(index):
    engine = Engine(index, SMALL)
    try:
        engine.warm_up()
        clip = tiny_run.clip_of((1, 3), 5)
        engine._run(Work(kind="speech", dim=32, count=10, task="find"), [clip] * 3)
        assert engine.compilations == 0
    finally:
        engine.stop()


@pytest.mark.slow
def test_queries_that_wait_together_are_one_batch(index):
    """More of them than `Embedder` takes at once by itself, and shorter than the warm-up's."""
    engine = Engine(index, dataclasses.replace(SMALL, batch_size=32, warm_seconds=2.5))
    try:
        engine.warm_up()
        rate = engine.embedder.model.speech.config.sample_rate
        clip = 0.1 * np.random.default_rng(0).standard_normal(int(2.3 * rate), np.float32)
        engine._run(Work(kind="speech", dim=32, count=10, task="find"), [clip] * 32)
        assert engine.compilations == 0
    finally:
        engine.stop()


def test_other_names_of_this_machine_are_refused_at_loopback(client, index):
    for name in ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert client.get("/info", headers={"host": name}).status_code == 200
    for name in ("attacker.example", "attacker.example:8000", "localhost.attacker.example", ""):
        answer = client.get("/info", headers={"host": name})
        assert answer.status_code == 421
        assert "is not one of this service" in answer.json()["error"]["message"]
    named = ServeConfig(allowed_hosts="search.example, other.example")
    with serving(index, named) as (url, _):
        for name, status in (("search.example", 200), ("OTHER.example:1", 200), ("localhost", 421)):
            assert httpx.get(f"{url}/info", headers={"host": name}).status_code == status
    assert ServeConfig(host="0.0.0.0").host_names == frozenset()


def test_names_of_hosts():
    assert "127.0.0.2" in ServeConfig(host="127.0.0.2").host_names
    assert "localhost" in ServeConfig(host="LOCALHOST").host_names
    named = ServeConfig(allowed_hosts="Search.example., [::1], fe80::1, 10.0.0.1,")
    assert named.host_names == {"search.example", "::1", "fe80::1", "10.0.0.1"}
    for name in ("http://search.example", "search.example:80", "*", "a b", "[::1]:80"):
        with pytest.raises(MrlError, match="which is no name"):
            ServeConfig(allowed_hosts=f"localhost, {name}")


@pytest.fixture
def engine(index, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    engine = Engine(index, SMALL)
    yield engine
    engine.stop()


def test_a_warm_up_by_threads_puts_warnings_back(engine, monkeypatch):
    """Of two threads the one that began to silence warnings first ends first."""
    numbers, entered, both, left = itertools.count(), *(threading.Event() for _ in range(3))

    def run(work, inputs):
        number = next(numbers)
        if number > 1:
            return
        if number == 1:
            entered.wait(60)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            (entered, both)[number].set()
            (both, left)[number].wait(60)
        left.set()

    monkeypatch.setattr(engine, "_run", run)
    before = list(warnings.filters)
    engine.warm_up()
    assert list(warnings.filters) == before
