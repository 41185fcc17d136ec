"""How time and memory grow with the work: 1, 2, 4 and 8 times a batch, a corpus, an index.

    python benchmarks/growth.py

Each size in a process of its own: the median of some calls after the first; seconds of cores, which
other programs on the machine change little; and the peak of the process over what it held
before the first call, inputs included there. The towers are those of large_batch.py, of middling
size, so that compiling takes little of the time.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import forget_peak, record, resident_bytes, summarize, timed
from large_batch import ROWS, SAMPLES, TOKENS, VOCABULARY, middling_model, train_step
from search import K, vectors

TIMES = (1, 2, 4, 8)
RATE = 16_000
TEXTS, CLIPS, DOCUMENTS, QUERIES, WIDTH = 512, 32, 100_000, 500, 256
BATCH, REPEATS = 16, 3
LINES = {"train step": "linear", "texts": "constant", "clips": "constant", "search": "constant"}
"""What the memory beside the inputs should follow; the time of all should be linear."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=2, metavar=("PART", "TIMES"))
    args = parser.parse_args(argv)
    if args.worker:
        print(json.dumps(measured(PARTS[args.worker[0]](int(args.worker[1])))))
        return
    figures: dict[str, Any] = {}
    for part in PARTS:
        figures[part] = {}
        for times in TIMES:
            figures[part][str(times)] = worker(part, times)
            print(part, times, figures[part][str(times)], flush=True)
    inputs = {
        "train step": f"{ROWS} clips of {SAMPLES / RATE:g} s, documents of {TOKENS} tokens",
        "texts": f"{TEXTS} texts of 8 to 64 tokens, in batches of {BATCH}",
        "clips": f"{CLIPS} clips of 1 to 4 s, in batches of {BATCH}",
        "search": f"{QUERIES} queries, the best {K} of {DOCUMENTS:,} vectors of width {WIDTH}",
    }
    target = "time in proportion to the work; memory too for a step, constant for the rest"
    record("growth", {"target": target, "inputs": inputs, "lines": LINES, "figures": figures})


def measured(run: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of some calls after the first, also of all cores, and the memory of all calls."""
    # Else the peak would be that of what was prepared, or of the process that started this one.
    forget_peak()
    before = resident_bytes("VmRSS")
    run()
    used = time.process_time()
    seconds = [timed(run) for _ in range(REPEATS)]
    cores = (time.process_time() - used) / REPEATS
    return {
        "seconds": summarize(seconds),
        "core_seconds": cores,
        "bytes": resident_bytes("VmHWM") - before,
    }


def encoder() -> Any:
    """An encoder of that model, whose tokenizer has a token for each letter."""
    from mrl_jax.demo.towers import make_tokenizer, open_tokenizer
    from mrl_jax.inference.encoder import Encoder
    from mrl_jax.nn import param_tree

    model = middling_model()
    tokenizer, size = open_tokenizer(make_tokenizer(["abcdefghij"]))
    assert size <= VOCABULARY
    split = param_tree.split(model)
    return Encoder(split, model, tokenizer, prompts={}, batch_size=BATCH)


def texts(times: int) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    lengths = [int(size) for size in rng.integers(7, 64, TEXTS)] * times
    items = ["".join(rng.choice(list("abcdefghij"), size)) for size in lengths]
    inside = encoder()
    return lambda: inside.text(items)


def clips(times: int) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    lengths = [int(size) for size in rng.integers(RATE, 4 * RATE, CLIPS)] * times
    items = [rng.standard_normal(size, np.float32) for size in lengths]
    inside = encoder()
    return lambda: inside.speech(items)


def find(times: int) -> Callable[[], Any]:
    from mrl_jax.inference.search.exact import search

    queries, documents = vectors(QUERIES, DOCUMENTS * times, WIDTH)
    return lambda: search(queries, documents, K)


PARTS: dict[str, Callable[[int], Callable[[], Any]]] = {
    "train step": lambda times: train_step(ROWS * times, 1),
    "texts": texts,
    "clips": clips,
    "search": find,
}
"""Name -> a function that prepares so many times the work, and gives what is timed."""


def worker(part: str, times: int) -> dict[str, Any]:
    """One size in a fresh process."""
    command = [sys.executable, str(Path(__file__)), "--worker", part, str(times)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
