"""`SearchIndex` at every precision and backend, and faiss alone: time, bytes and recall.

python benchmarks/search_index.py           a million documents
python benchmarks/search_index.py --toy     a few thousand, to see that it runs; nothing is recorded

Each index is built from vectors, written, and loaded again from the disk before it is searched.
Seconds of all cores are measured as well, which other programs on the machine change less. Each
index is recorded when it is done; --append with --precisions and --backends adds more of them.
"faiss alone" is the file that a backend wrote, searched without documents and without scoring
again.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import funnel
import numpy as np
from common import RESULTS, record, summarize, timed

from mrl_jax.data.sets.corpus import CorpusDocument
from mrl_jax.inference.index.backends import BACKENDS
from mrl_jax.inference.index.description import PRECISIONS
from mrl_jax.inference.index.first_stage import NAME
from mrl_jax.inference.index.search_index import SearchIndex
from mrl_jax.inference.search.funnel import exact_places, recall_of

K = 10
TOY = {"documents": 4000, "queries": 20, "width": 16, "prefix": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--shortlist", type=int, default=200)
    parser.add_argument("--prefix", type=int, default=32, help="of one index; 0: of none")
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--backends", nargs="*", choices=tuple(BACKENDS), default=tuple(BACKENDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--append", action="store_true", help="add to what is recorded")
    parser.add_argument("--toy", action="store_true", help="a few thousand documents")
    args = parser.parse_args()
    if args.toy:
        vars(args).update(TOY)
    description, queries, documents = funnel.random(args)
    exact = exact_places(queries, documents, K)
    runs: list[dict[str, Any]] = [{"precision": precision} for precision in args.precisions]
    if args.prefix:
        runs.append({"precision": "float32", "prefix": args.prefix})
    runs += [{"precision": "float32", "backend": backend} for backend in args.backends]
    result = {
        "target": "recall@10 against exact search, beside time and bytes",
        "inputs": {
            **description,
            "queries": len(queries),
            "documents": len(documents),
            "width": args.width,
            "k": K,
            "shortlist": args.shortlist,
        },
        "peak_bytes": 0,
        "figures": [],
    }
    if args.append:
        before = json.loads((RESULTS / "search_index.json").read_text())
        assert before["inputs"] == result["inputs"], "the recorded result is of other inputs"
        result |= {name: before[name] for name in ("peak_bytes", "figures")}
    for run in runs:
        result["figures"].append(measure(run, queries, documents, exact, args))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        result["peak_bytes"] = max(result["peak_bytes"], peak)
        if not args.toy:
            record("search_index", result)


def measure(
    options: dict[str, Any],
    queries: np.ndarray,
    documents: np.ndarray,
    exact: np.ndarray,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Figures of one index."""
    folder = Path(tempfile.mkdtemp())
    try:
        made: list[SearchIndex] = []

        def build() -> None:
            texts = corpus(len(documents))
            index = SearchIndex.from_vectors(documents, texts, shortlist=args.shortlist, **options)
            index.save(folder / "index")
            made.append(index)

        start = time.process_time()
        build_seconds = timed(build)
        build_core_seconds = time.process_time() - start
        made.clear()
        files = {path.name: path.stat().st_size for path in (folder / "index").iterdir()}
        index = SearchIndex.load(folder / "index")
        hits = index.search(queries, k=K)  # Compiles, and warms up.
        start = time.process_time()
        seconds = [timed(lambda: index.search(queries, k=K)) for _ in range(args.repeats)]
        core_seconds = (time.process_time() - start) / args.repeats
        places = np.asarray([[int(hit.id) for hit in row] for row in hits])
        texts = files["documents.jsonl"] + files["offsets.npy"]
        figures = {
            **options,
            "build_seconds": build_seconds,
            "build_core_seconds": build_core_seconds,
            "bytes": sum(files.values()),
            "bytes_of_vectors": sum(files.values()) - texts,
            "seconds": summarize(seconds),
            "core_seconds": core_seconds,
            "recall": recall_of(places, exact),
        }
        if options.get("backend", "").startswith("faiss"):
            del index
            figures["alone"] = alone(folder / "index" / NAME, options["backend"], queries, exact)
        print(json.dumps(figures), flush=True)
        return figures
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def alone(path: Path, name: str, queries: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """faiss's own file, searched for the K best without an index of ours around it."""
    backend = BACKENDS[name].backend.load(path)
    places = backend.search(queries, K)
    start = time.process_time()
    seconds = [timed(lambda: backend.search(queries, K)) for _ in range(3)]
    return {
        "bytes": path.stat().st_size,
        "seconds": summarize(seconds),
        "core_seconds": (time.process_time() - start) / len(seconds),
        "recall": recall_of(places, exact),
    }


def corpus(documents: int) -> Iterator[CorpusDocument]:
    """Documents with short texts, numbered in the order of their vectors."""
    for number in range(documents):
        yield CorpusDocument(id=str(number), text=f"document number {number}")


if __name__ == "__main__":
    main()
