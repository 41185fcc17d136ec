"""The rival: PyTorch's training step and encoding, eager and compiled, in bfloat16."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import summarize, timed
from late_fusion_step import Sizes, TorchSide, flops

from gpu_parts import PEAK, Figures, attempt

STEPS = 10
TEXTS, TOKENS = 512, 128


def measure(*, toy: bool) -> Figures:
    toy_sizes = Sizes(batch=2, seconds=0.4, tokens=4, bf16=True, toy=True)
    sizes = toy_sizes if toy else Sizes(batch=64, seconds=10.0, tokens=32, bf16=True)
    torch.set_float32_matmul_precision("high")  # TF32, as JAX's default is.
    begun = time.perf_counter()
    side = TorchSide(sizes)
    device = torch.cuda.get_device_name() if side.device == "cuda" else "cpu"
    yield "towers", {"device": device, "seconds": time.perf_counter() - begun}
    count, tokens = (4, 8) if toy else (TEXTS, TOKENS)
    most = side.text.config.vocab_size
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, most, (count, tokens)))
    ids = ids.to(side.device)
    # What compiles is compiled first, beside other parts; then the device must be free.
    kinds = ("eager",) if toy else ("eager", "compiled")  # Compiling needs a compiler of C++.
    runs: dict[str, Callable[[], dict[str, Any]]] = {}
    for kind in kinds:
        run = side.step(compiled=kind == "compiled")
        losses = [run() for _ in range(3)]
        ready = time.perf_counter() - begun
        yield f"ready, {kind}", {"seconds": ready}
        runs[f"step, {kind}"] = functools.partial(step, side, run, losses)
    parts: dict[str, tuple[Any, Any, int]] = {
        "clips": (side.embed_speech, side.samples, sizes.batch),
        "texts": (side.embed_text, ids, count),
    }
    for kind in kinds:
        for name, (embed, given, rows) in parts.items():
            embed = torch.compile(embed) if kind == "compiled" else embed
            with torch.inference_mode():
                embed(given)
            runs[f"{name}, {kind}"] = functools.partial(rate, side, embed, given, rows)
    yield "ready", {"seconds": time.perf_counter() - begun}
    if marker := os.environ.get("GPU_FREE"):
        while not Path(marker).exists():
            time.sleep(0.2)
    for name, run in runs.items():
        yield name, attempt(run)


def step(side: TorchSide, run: Callable[[], float], losses: list[float]) -> dict[str, Any]:
    if side.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = summarize([timed(lambda: losses.append(run())) for _ in range(STEPS)])
    return {
        "seconds": seconds,
        "utilisation": flops(side.sizes)["all"] / seconds["median"] / PEAK,
        "bytes": torch.cuda.max_memory_allocated() if side.device == "cuda" else None,
        "losses": [losses[0], losses[-1]],
    }


def rate(side: TorchSide, embed: Callable[[Any], Any], given: Any, rows: int) -> dict[str, Any]:
    """Rows a second without gradients."""

    def five_calls() -> None:
        for _ in range(5):
            embed(given)
        if side.device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        five_calls()  # Warms up.
        seconds = summarize([timed(five_calls) / 5 for _ in range(3)])
    return {"seconds": seconds, "rows_a_second": rows / seconds["median"]}
