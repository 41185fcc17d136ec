"""Times of JAX functions, and memory of compiled programs."""

import time
from collections.abc import Callable
from typing import Any

import jax
from common import summarize, timed


def seconds_a_call(
    function: Callable[..., Any], *arguments: Any, calls: int = 20, rounds: int = 5
) -> dict[str, Any]:
    """Median and range over rounds of `calls` calls in a row, after two that warm up."""
    for _ in range(2):
        jax.block_until_ready(function(*arguments))

    def run() -> None:
        jax.block_until_ready([function(*arguments) for _ in range(calls)])

    return summarize([timed(run) / calls for _ in range(rounds)])


def program_bytes(compiled: Any) -> int | None:
    """Memory that a compiled program needs: arguments, results and what lies in between."""
    used = compiled.memory_analysis()
    if used is None:
        return None
    whole = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return int(whole - used.alias_size_in_bytes)


def compile_seconds(function: Any, *arguments: Any) -> tuple[Any, float]:
    """A jitted function compiled for these arguments, and the time that it took."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - start
