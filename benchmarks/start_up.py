"""From a process's start to the first vector of one text, beside sentence-transformers.

    python benchmarks/start_up.py [--rounds 3] [--folder models] [--drop-caches]

A model of Qwen3-0.6B and HuBERT-base with random weights, its text tower stored in bfloat16 as
the published one; sentence-transformers loads the checkpoint that the tower was converted from,
and no speech tower. Each run is a process of its own, in turn. Cold: the weights are not in the
page cache (by posix_fadvise; with --drop-caches nothing is) and no program is compiled. Warm: both
are. "load" begins after the imports; "cpu" is of the whole process, on all cores together, which
other work on the machine changes little.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import record, summarize
from full_size_models import QUERY, make_models

DTYPES = ("float32", "bfloat16")
SIDES = ("ours", "sentence-transformers", "mrl-jax search")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where models are made, or were made before")
    parser.add_argument("--drop-caches", action="store_true", help="of the machine; takes root")
    parser.add_argument("--worker", nargs=3, metavar=("SIDE", "FOLDER", "DTYPE"))
    args = parser.parse_args()
    if args.worker:
        side, folder, dtype = args.worker
        run = ours if side == "ours" else sentence_transformers
        print(json.dumps(run(Path(folder), dtype)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.folder or Path(scratch)).absolute()
        if not (folder / "index").is_dir():
            make_models(folder)
            make_index(folder)
        figures = {dtype: measure(folder, dtype, args) for dtype in DTYPES}
    record(
        "start_up",
        {
            "inputs": {
                "query": QUERY,
                "stored": "text tower in bfloat16, speech tower in float32",
                "cold": "nothing in the page cache"
                if args.drop_caches
                else "weights not in the page cache, libraries in it; no compiled programs",
            },
            "figures": figures,
            "target": "ours / sentence-transformers at most 1",
        },
    )


def make_index(folder: Path) -> None:
    from mrl_jax import Embedder, SearchIndex

    embedder = Embedder.load(folder / "model")
    SearchIndex.build(embedder, [{"id": "a", "text": QUERY}]).save(folder / "index")


def measure(folder: Path, dtype: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each side, cold and warm, and how near their vectors are."""
    sides = SIDES if dtype == DTYPES[0] else SIDES[:2]
    seconds: dict[str, dict[str, list[float]]] = {}
    vectors: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for side in sides:
            with tempfile.TemporaryDirectory() as cache:
                evict(folder, everything=args.drop_caches)
                for state in ("cold", "warm"):
                    result = run_side(side, folder, dtype, cache)
                    vectors[side] = result.pop("vector", [])
                    spans = seconds.setdefault(f"{side}, {state}", {})
                    for span, value in result.items():
                        spans.setdefault(span, []).append(value)
    figures = figures_of(seconds)
    figures["cosine"] = float(np.dot(vectors["ours"], vectors[SIDES[1]]))
    print(dtype, json.dumps(figures, indent=1), flush=True)
    return figures


def figures_of(seconds: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """Median and range of each span of each side and state, and the ratios of the medians."""
    figures: dict[str, Any] = {
        name: {span: summarize(values) for span, values in spans.items()}
        for name, spans in seconds.items()
    }
    for state in ("cold", "warm"):
        ours_, theirs = figures[f"ours, {state}"], figures[f"{SIDES[1]}, {state}"]
        figures[f"ours over theirs, {state}"] = {
            span: ours_[span]["median"] / theirs[span]["median"] for span in ours_
        }
    return figures


def run_side(side: str, folder: Path, dtype: str, cache: str) -> dict[str, Any]:
    """One process: its seconds from its start, from the load on, and of CPU; the vector."""
    time.sleep(1)  # Let the threads of the process before go.
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, __file__, "--worker", side, str(folder), dtype]
    if side == "mrl-jax search":
        command = [sys.executable, "-m", "mrl_jax.core.commands", "search"]
        command += [str(folder / "index"), QUERY, "-k", "1"]
    begun, cpu = time.time(), _cpu_of_children()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    ended, cpu = time.time(), _cpu_of_children() - cpu
    if side == "mrl-jax search":
        return {"process": ended - begun, "cpu": cpu}
    result: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    spans = {
        "process": result["vector_at"] - begun,
        "load": result["vector_at"] - result["load_at"],
    }
    return {**spans, "cpu": cpu, "vector": result["vector"]}


def _cpu_of_children() -> float:
    """Seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(folder: Path, dtype: str) -> dict[str, Any]:
    from mrl_jax import Embedder
    from mrl_jax.core.compilation_cache import keep_compiled
    from mrl_jax.inference.first_text import FirstText

    keep_compiled()
    load_at = time.time()
    embedder = Embedder.load(folder / "model", dtype=dtype, first=FirstText(QUERY))
    vector = embedder.embed_text([QUERY])[0]
    return {"load_at": load_at, "vector_at": time.time(), "vector": vector.tolist()}


def sentence_transformers(folder: Path, dtype: str) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    load_at, options = time.time(), {"dtype": dtype}
    model = SentenceTransformer(str(folder / "text-source"), device="cpu", model_kwargs=options)
    vector = np.asarray(model.encode([QUERY])[0], np.float32)
    return {"load_at": load_at, "vector_at": time.time(), "vector": vector.tolist()}


def evict(folder: Path, *, everything: bool) -> None:
    """Take the models' files out of the page cache, or everything."""
    os.sync()
    if everything:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        return
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
