"""Funnel search: recall against time, beside exact search at full width, in one process.

python benchmarks/funnel.py                      random vectors whose directions decay
python benchmarks/funnel.py --model M --data D   a model's embeddings, grown
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from common import record, summarize, timed

from mrl_jax.core.paths import user_path
from mrl_jax.evaluation.tradeoff.measure import NOISE, grow
from mrl_jax.inference.search.exact import truncate
from mrl_jax.inference.search.funnel import exact_places, make_funnel, recall_of

K = 10
CLUSTERS, DECAY = 2000, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=user_path, help="folder of a trained model")
    parser.add_argument("--data", help="a retrieval set, as `eval.py --data` takes it")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--width", type=int, default=256, help="of random vectors")
    parser.add_argument("--prefixes", type=int, nargs="+", default=(32, 64))
    parser.add_argument("--shortlists", type=int, nargs="+", default=(100, 1000))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if (args.model is None) != (args.data is None):
        parser.error("--model and --data go together")
    description, queries, documents = embeddings(args) if args.model else random(args)
    exact = exact_places(queries, documents, K)  # Compiles, and warms up.
    runs: list[tuple[dict[str, Any], Any]] = [
        ({"precision": "fp32", "prefix": None}, lambda: exact_places(queries, documents, K))
    ]
    for prefix in [x for x in args.prefixes if x < queries.shape[1]]:
        for size in args.shortlists:
            funnel = make_funnel(documents, prefix=prefix, shortlist=size)
            search = {"precision": "fp32", "prefix": prefix, "shortlist": size}
            runs.append((search, lambda funnel=funnel: funnel.search(queries, K)))
    places_found = [run() for _, run in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(args.repeats):  # In turn, so that what else the machine does meets all.
        for row, (_, run) in zip(seconds, runs, strict=True):
            row.append(timed(run))
    full = summarize(seconds[0])
    figures = []
    for (search, _), places, took in zip(runs, places_found, seconds, strict=True):
        of = summarize(took)
        ratio = of["median"] / full["median"]
        recall = recall_of(places, exact)
        figures.append({**search, "recall": recall, "seconds": of, "over_full": ratio})
    record(
        "funnel",
        {
            "target": "recall@10 against time, beside full width",
            "inputs": {
                **description,
                "queries": len(queries),
                "documents": len(documents),
                "width": queries.shape[1],
                "k": K,
            },
            "figures": figures,
        },
    )
    print(json.dumps(figures, indent=1))


def embeddings(args: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A model's queries and corpus, grown; queries as well, where the set has fewer."""
    from mrl_jax.data.sets.named_sets import load_retrieval_set
    from mrl_jax.evaluation.encoded_set import encode_set, need_prefixes
    from mrl_jax.inference.embedder import Embedder
    from mrl_jax.inference.search.vectors import numbers_of

    embedder = Embedder.load(args.model)
    need_prefixes(embedder, args.model)
    queries, documents = encode_set(embedder, load_retrieval_set(args.data))
    description = (
        f"embeddings of {Path(args.data).name}, {len(documents)} documents and "
        f"{len(queries)} queries, and copies of them with noise {NOISE} as long"
    )
    grown = grow(numbers_of(queries), max(args.queries, len(queries)), seed=1)[: args.queries]
    documents = grow(documents, max(args.documents, len(documents)))
    return {"vectors": description}, grown, documents


def random(args: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Points around centres; coordinate i has the standard deviation i ** -DECAY."""
    rng = np.random.default_rng(0)
    scale = (np.arange(1, args.width + 1) ** -DECAY).astype(np.float32)
    centres = rng.standard_normal((CLUSTERS, args.width), dtype=np.float32) * scale

    def around(rows: int) -> np.ndarray:
        made = np.empty((rows, args.width), np.float32)
        for start in range(0, rows, 65_536):
            part = made[start : start + 65_536]
            noise = rng.standard_normal(part.shape, dtype=np.float32) * scale
            part[:] = truncate(centres[rng.integers(0, CLUSTERS, len(part))] + noise, None)
        return made

    description = (
        f"random, around {CLUSTERS} centres, spread as far as these are; coordinate i has the "
        f"standard deviation i ** -{DECAY}"
    )
    return {"vectors": description}, around(args.queries), around(args.documents)


if __name__ == "__main__":
    main()
