"""The nested loss beside InfoNCE of full width: value and both gradients."""

import functools
from typing import Any

import jax
from nested_loss import DIMS, TEMPERATURE, plain

from gpu_parts import Figures, attempt
from gpu_parts.timing import compile_seconds, program_bytes, seconds_a_call


def measure(*, toy: bool) -> Figures:
    for rows in (16, 32) if toy else (4096, 32_768):
        for kind in ("plain", "full", "nested"):
            yield f"{rows} rows: {kind}", attempt(functools.partial(timed, kind, rows))


def timed(kind: str, rows: int) -> dict[str, Any]:
    from mrl_jax.losses.matryoshka import matryoshka_infonce

    keys = jax.random.split(jax.random.key(0), 2)
    q, d = (jax.random.normal(key, (rows, DIMS[0])) for key in keys)
    dims = DIMS[:1] if kind == "full" else DIMS

    def loss(q: Any, d: Any) -> Any:
        if kind == "plain":
            return plain(q, d)
        return matryoshka_infonce(q, d, dims=dims, temperature=TEMPERATURE).total

    compiled, took = compile_seconds(jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), q, d)
    return {
        "seconds": seconds_a_call(compiled, q, d, calls=3, rounds=3),
        "bytes": program_bytes(compiled),
        "compile": took,
    }
