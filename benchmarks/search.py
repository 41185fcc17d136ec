"""Exact search beside faiss's flat index: time in one process, memory in processes of their own.

python benchmarks/search.py
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import record, summarize, timed

K = 10
SIDES = ("ours", "faiss")
Find = Callable[[], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"documents": 1_000_000, "queries": 1000, "width": 256, "repeats": 5}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory-of", choices=("vectors", *SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(json.dumps(peak(args)))
        return
    # Before this process grows: a child begins with its parent's peak.
    memory = {side: memory_of(side, args) for side in ("vectors", *SIDES)}
    queries, documents = vectors(args.queries, args.documents, args.width)
    finds = {side: finder(side, queries, documents) for side in SIDES}
    results = {side: find() for side, find in finds.items()}  # Compiles, and warms up.
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(args.repeats):
        for side, find in finds.items():
            seconds[side].append(timed(find))
    (scores, places), (other_scores, others) = results["ours"], results["faiss"]
    figures = {side: summarize(seconds[side]) for side in SIDES}
    ratio = figures["ours"]["median"] / figures["faiss"]["median"]
    record(
        "search",
        {
            "target": "at most half of faiss's time",
            "inputs": {
                "queries": args.queries,
                "documents": args.documents,
                "width": args.width,
                "k": K,
            },
            "faiss": faiss_version(),
            "figures": {
                **figures,
                "ours_over_faiss": ratio,
                "same_documents": float(np.mean(places == others)),
                "largest_difference": float(np.abs(scores - other_scores).max()),
                "peak_bytes": memory,
            },
        },
    )
    print(json.dumps({"ours_over_faiss": ratio, "peak_bytes": memory, **figures}, indent=1))


def vectors(queries: int, documents: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of random directions."""
    rng = np.random.default_rng(0)

    def unit(rows: int) -> np.ndarray:
        made = rng.standard_normal((rows, width), dtype=np.float32)
        for start in range(0, rows, 65_536):  # In place, so that making them costs no peak.
            part = made[start : start + 65_536]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        return made

    return unit(queries), unit(documents)


def finder(side: str, queries: np.ndarray, documents: np.ndarray) -> Find:
    """A search of either side; faiss's index holds its own copy of the documents."""
    if side == "ours":
        from mrl_jax.inference.search.exact import search

        return lambda: search(queries, documents, K)
    import faiss  # pyright: ignore[reportMissingImports]

    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents)
    return lambda: index.search(queries, K)


def peak(args: argparse.Namespace) -> int:
    """Peak memory of this process, once it has searched; "vectors": without a search."""
    queries, documents = vectors(args.queries, args.documents, args.width)
    if args.memory_of != "vectors":
        finder(args.memory_of, queries, documents)()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_of(side: str, args: argparse.Namespace) -> int:
    """Peak memory of a fresh process that makes the vectors and searches."""
    command = [sys.executable, Path(__file__), "--memory-of", side]
    for name in ("documents", "queries", "width"):
        command += [f"--{name}", str(getattr(args, name))]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def faiss_version() -> dict[str, Any]:
    import faiss  # pyright: ignore[reportMissingImports]

    return {"version": faiss.__version__, "threads": faiss.omp_get_max_threads()}


if __name__ == "__main__":
    main()
