"""`mrl-jax serve` over a million documents: latency, throughput, memory, compilations, abuse.

    python benchmarks/serving.py --model demo/model --data demo/world/test [--documents 1000000]

The service is a process of its own, on loopback, with the demo's model. The documents are those of
the data, and random vectors beside them. Clients ask by the data's recordings, cut to two seconds,
and by text; each compares every answer with the one it got when it asked alone.
"""

import argparse
import concurrent.futures
import contextlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from common import record

SECONDS = 2.0
CLIENTS = 16
CONNECTIONS = 1000
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a retrieval set")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--asked", type=int, default=400, help="spoken questions, alone")
    parser.add_argument("--requests", type=int, default=10_000, help="for the memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_index(args.model, args.data, args.documents, Path(scratch) / "index")
        questions = recordings(args.data, SECONDS)
        with served(folder) as (url, process, start):
            figures = {"documents": args.documents, "start_seconds": start}
            figures |= measure(url, process.pid, questions, args)
        figures["stopped_with_status"] = process.returncode
    target = "95% alone within 150 ms; 16 clients at least four times one by one"
    record("serving", {"model": "the demo's model", "target": target, **figures})


def make_index(model: Path, data: Path, count: int, out: Path) -> Path:
    """The documents of the data, and random unit vectors up to `count`."""
    from mrl_jax import Embedder, SearchIndex
    from mrl_jax.data.sets.corpus import read_corpus

    index = SearchIndex.build(Embedder.load(model), list(read_corpus(data)))
    rng = np.random.default_rng(0)
    size = 50_000
    for start in range(len(index), count, size):
        rows = min(size, count - start)
        vectors = rng.standard_normal((rows, index.dim), np.float32)
        documents = [{"id": f"r{start + i}", "text": f"random {start + i}"} for i in range(rows)]
        index.add(documents, vectors)
    return index.save(out)


def recordings(data: Path, seconds: float) -> list[bytes]:
    """The data's spoken questions, repeated or cut to `seconds`, as FLAC."""
    import soundfile

    from mrl_jax.data.sets.retrieval_set import read_retrieval_set

    files = []
    for query in read_retrieval_set(data).queries[:64]:
        assert isinstance(query.audio, Path)
        samples, rate = soundfile.read(query.audio, dtype="float32")
        file = io.BytesIO()
        soundfile.write(file, np.resize(samples, int(seconds * rate)), rate, format="FLAC")
        files.append(file.getvalue())
    return files


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str], float]]:
    """Address, process, and seconds until the first answer, of a service."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "mrl_jax.core.commands", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip().rpartition(" ")[2]
        httpx.get(f"{url}healthz").raise_for_status()
        yield url, process, round(time.perf_counter() - begun, 1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def measure(url: str, pid: int, questions: list[bytes], args: argparse.Namespace) -> dict[str, Any]:
    with httpx.Client(base_url=url, timeout=120) as client:
        alone = [ask(client, question) for question in questions]
        truth = [body for body, _ in alone]
        once = [ask(client, questions[i % len(questions)]) for i in range(args.asked)]
        figures: dict[str, Any] = {"alone": spread([seconds for _, seconds in once])}
        one_by_one = args.asked / sum(seconds for _, seconds in once)
        before = compilations(client)
        figures["16 clients"], rate, wrong = concurrent_clients(url, questions, truth, args.asked)
        figures |= {"per_second": {"one by one": one_by_one, "16 clients": rate}}
        figures["times"] = rate / one_by_one
        figures["text, alone"] = spread([ask_text(client, f"jën {i}") for i in range(200)])
        memory = [resident(pid)]
        for _ in range(4):
            many(url, questions, args.requests // 4)
            memory.append(resident(pid))
        figures["resident_mb"], figures["requests"] = memory, args.requests
        figures["abuse"] = abuse(url)
        figures["wrong_answers"] = wrong + sum(
            ask(client, question)[0] != body
            for question, body in zip(questions, truth, strict=True)
        )
        figures["compilations_after_start"] = compilations(client) - before
    return figures


def ask(client: httpx.Client, question: bytes) -> tuple[Any, float]:
    """Ids of the documents found, and seconds."""
    begun = time.perf_counter()
    response = client.post("search", files={"file": ("q.flac", question)}, data={"k": str(K)})
    seconds = time.perf_counter() - begun
    return [hit["id"] for hit in response.raise_for_status().json()["hits"]], seconds


def ask_text(client: httpx.Client, text: str) -> float:
    begun = time.perf_counter()
    client.post("search", json={"text": text, "k": K}).raise_for_status()
    return time.perf_counter() - begun


def concurrent_clients(
    url: str, questions: list[bytes], truth: list[Any], asked: int
) -> tuple[dict[str, float], float, int]:
    """Latency, questions a second, and wrong answers of 16 clients at once."""

    def client(number: int) -> tuple[list[float], int]:
        seconds, wrong = [], 0
        rng = random.Random(number)
        with httpx.Client(base_url=url, timeout=120) as own:
            for _ in range(asked // 4):
                i = rng.randrange(len(questions))
                found, took = ask(own, questions[i])
                seconds.append(took)
                wrong += found != truth[i]
        return seconds, wrong

    begun = time.perf_counter()
    results = together(client, CLIENTS)
    rate = CLIENTS * (asked // 4) / (time.perf_counter() - begun)
    return spread([s for seconds, _ in results for s in seconds]), rate, sum(w for _, w in results)


def together(run: Callable[[int], Any], count: int) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def many(url: str, questions: list[bytes], count: int) -> None:
    """Requests of all kinds, the wrong among them."""

    def client(number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=url, timeout=120) as own:
            for _ in range(count // CLIENTS):
                match rng.randrange(4):
                    case 0:
                        ask(own, rng.choice(questions))
                    case 1:
                        ask_text(own, f"jën {rng.randrange(1000)}")
                    case 2:
                        own.post("v1/embeddings", json={"input": ["a b", "c"]}).raise_for_status()
                    case _:
                        assert own.post("search", content=rng.randbytes(500)).status_code == 400

    together(client, CLIENTS)


def abuse(url: str) -> dict[str, Any]:
    """Connections that say nothing, bodies that are cut, a body too large; then a health check."""
    host, port = url.removeprefix("http://").strip("/").split(":")
    opened = []
    for number in range(CONNECTIONS):
        one = socket.create_connection((host, int(port)), timeout=30)
        if number % 2:
            one.sendall(b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999\r\n\r\n{")
        opened.append(one)
    # More are refused rather than served late, and those that were there go on.
    with httpx.Client(base_url=url, timeout=60) as client:
        during = client.get("healthz").status_code
    for one in opened:
        one.close()
    time.sleep(1)
    with httpx.Client(base_url=url, timeout=60) as client:
        large = client.post("search", content=b"x" * 26_000_000).status_code
        after = client.get("healthz").status_code
    return {"connections": CONNECTIONS, "during": during, "large_body": large, "after": after}


def compilations(client: httpx.Client) -> int:
    lines = client.get("metrics").text.splitlines()
    return int(float(next(x for x in lines if x.startswith("mrl_compilations ")).split()[1]))


def resident(pid: int) -> float:
    """Megabytes of memory that the process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def spread(seconds: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1e3, 1) for q in (50, 95, 99)}


if __name__ == "__main__":
    main()
