"""Our training step and our encoding at full size, in bfloat16."""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import summarize, timed
from late_fusion_step import SOFT_TOKENS, OurSide, Sizes, flops

from gpu_parts import PEAK, Figures, attempt
from gpu_parts.timing import compile_seconds, program_bytes, seconds_a_call
from mrl_jax.nn import param_tree

STEPS, ROUNDS = 10, 3
FULL = Sizes(batch=64, seconds=10.0, tokens=32, bf16=True)
TOY = Sizes(batch=2, seconds=0.4, tokens=4, bf16=True, toy=True)
VARIANTS = (("linear", ""), ("soft", ""), ("linear", "both"), ("soft", "both"))
TEXTS, TOKENS = 512, 128


def measure(*, toy: bool) -> Figures:
    sizes = TOY if toy else FULL
    begun = time.perf_counter()
    side = OurSide(sizes)
    yield "towers", {"device": side.device, "seconds": time.perf_counter() - begun}
    for head, cached in VARIANTS[::3] if toy else VARIANTS:
        name = head + (f", cached {cached}" if cached else "")
        profile = cached == "" or toy
        yield name, attempt(functools.partial(step, side, head, cached, profile=profile))
    yield "clips", attempt(functools.partial(clips, side))
    yield "texts", attempt(functools.partial(texts, side, toy=toy))


def step(side: OurSide, head: str, cached: str, *, profile: bool) -> dict[str, Any]:
    """Time, share of the peak by formula, memory, and where the time goes."""
    begun = time.perf_counter()
    run, program = side.step(head, cached)
    built = time.perf_counter() - begun
    losses = [run() for _ in range(2)]
    ready = time.perf_counter() - begun
    if cached:  # In a row, as the next batch is copied and moved during a step.
        rounds = [timed(lambda: losses.append(run(STEPS))) for _ in range(ROUNDS)]
        seconds = summarize([one / STEPS for one in rounds])
    else:
        seconds = summarize([timed(lambda: losses.append(run())) for _ in range(STEPS)])
    counts = flops(side.sizes, 25.0 if head == "linear" else SOFT_TOKENS)
    needed = counts["all"] if not cached else counts["text tower, speech"]
    figures = {
        "seconds": seconds,
        "utilisation": needed / seconds["median"] / PEAK,
        "flops_by_formula": needed,
        "bytes": program_bytes(program),
        "compile": built,
        "ready": ready,
        "losses": [losses[0], losses[-1]],
    }
    return {**figures, **kernels(run)} if profile else figures


def clips(side: OurSide) -> dict[str, Any]:
    """Clips a second, as an Embedder encodes them."""
    taken = param_tree.split(side.model("linear"))
    samples, _ = side.sizes.arrays()
    lengths = jnp.full(len(samples), samples.shape[1], jnp.int32)
    weights = (taken.trained, taken.frozen)
    embed = jax.jit(lambda weights, *x: taken.rebuild(*weights).embed_speech(*x))
    program, took = compile_seconds(embed, weights, jnp.asarray(samples), lengths)
    seconds = seconds_a_call(program, weights, jnp.asarray(samples), lengths, calls=5, rounds=3)
    rate = len(samples) / seconds["median"]
    figures = {"seconds": seconds, "clips_a_second": rate, "compile": took}
    figures["bytes"] = program_bytes(program)
    return {**figures, **kernels(lambda: program(weights, samples, lengths))}


def texts(side: OurSide, *, toy: bool) -> dict[str, Any]:
    """Documents a second, and the five largest kernels."""
    taken = param_tree.split(side.text)
    count, tokens = (4, 8) if toy else (TEXTS, TOKENS)
    ids = np.random.default_rng(0).integers(0, side.text.config.vocab_size, (count, tokens))
    mask = jnp.ones(ids.shape, jnp.bool_)
    embed = jax.jit(lambda weights, *x: taken.rebuild({}, weights).embed(*x))
    program, took = compile_seconds(embed, taken.frozen, jnp.asarray(ids), mask)
    seconds = seconds_a_call(program, taken.frozen, jnp.asarray(ids), mask, calls=5, rounds=3)
    rate = count / seconds["median"]
    return {
        "seconds": seconds,
        "texts_a_second": rate,
        "compile": took,
        "bytes": program_bytes(program),
        **kernels(lambda: program(taken.frozen, jnp.asarray(ids), mask)),
    }


def kernels(run: Callable[[], Any], count: int = 30) -> dict[str, Any]:
    """What a call spends its time on, on the device: names, ms and calls of the largest kernels."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    spent: dict[str, list[float]] = {}
    for plane in planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        # One line a stream of kernels; others (modules, operations) repeat the same time.
        for line in plane.lines:
            for event in line.events if "Stream" in line.name else ():
                spent.setdefault(event.name[:80], []).append(event.duration_ns / 1e6)
    largest = sorted(spent.items(), key=lambda item: -sum(item[1]))[:count]
    return {
        "kernels": [(name, round(sum(ms), 3), len(ms)) for name, ms in largest],
        "kernels_ms": sum(sum(ms) for ms in spent.values()),
        "kernels_calls": sum(len(ms) for ms in spent.values()),
    }
