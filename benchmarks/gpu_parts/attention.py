"""Implementations of attention at the shapes used: time forward and backward, and error."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpu_parts import Figures, attempt
from gpu_parts.timing import seconds_a_call
from mrl_jax.nn.attention import attend_fused, attend_plainly

ROWS = 2
"""Of the batch, whose errors are measured."""
SHAPES: dict[str, dict[str, Any]] = {
    "speech, 64 x 10 s": {"B": 64, "L": 499, "N": 12, "K": 12, "H": 64, "causal": False},
    "text, 64 x 250": {"B": 64, "L": 250, "N": 16, "K": 8, "H": 128, "causal": True},
    "documents, 256 x 129": {"B": 256, "L": 129, "N": 16, "K": 8, "H": 128, "causal": True},
}


def measure(*, toy: bool) -> Figures:
    for name, shape in SHAPES.items():
        given = {**shape, "B": 2, "L": 33, "N": 4, "K": 2, "H": 16} if toy else shape
        causal = given.pop("causal")
        for kind, function in kinds(causal).items():
            yield f"{name}: {kind}", attempt(functools.partial(timed, function, causal, **given))


def kinds(causal: bool) -> dict[str, Callable[..., Any]]:
    """Functions of (query, key, value, lengths); those of causal attention read no lengths."""

    def ours(attention: Callable[..., Any], q: Any, k: Any, v: Any, lengths: Any) -> Any:
        return attention(q, k, v, lengths=None if causal else lengths, causal=causal)

    return {
        "cudnn": functools.partial(ours, attend_fused),
        "written out": functools.partial(ours, attend_plainly),
        "pallas": functools.partial(pallas, causal),
    }


def pallas(causal: bool, q: Any, k: Any, v: Any, lengths: Any) -> Any:
    """JAX's Triton kernel: as many key heads as query heads, and places in whole blocks."""
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    places, groups = q.shape[1], q.shape[2] // k.shape[2]
    fill = -places % 128
    segments = None
    if not causal:
        segments = (jnp.arange(places + fill)[None] >= lengths[:, None]).astype(jnp.int32)
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    q, k, v = (jnp.pad(x, ((0, 0), (0, fill), (0, 0), (0, 0))) for x in (q, k, v))
    blocks = BlockSizes(
        block_q=64,
        block_k=64,
        block_q_dkv=32,
        block_kv_dkv=32,
        block_q_dq=32,
        block_kv_dq=32,
    )
    options: dict[str, Any] = {"sm_scale": q.shape[3] ** -0.5, "block_sizes": blocks}
    mixed: Any = mha(q, k, v, segments, causal=causal, **options)
    return mixed[:, :places]


def timed(
    function: Callable[..., Any], causal: bool, *, B: int, L: int, N: int, K: int, H: int
) -> dict[str, Any]:
    """Times in ms, and the relative error beside float32 in the result and in its gradients."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((B, L, n, H)), jnp.bfloat16) for n in (N, K, K))
    lengths = jnp.asarray(rng.integers(L // 2, L + 1, B), jnp.int32)
    weight = jnp.asarray(rng.standard_normal((B, L, N, H)), jnp.bfloat16)

    def loss(function: Callable[..., Any], q: Any, k: Any, v: Any) -> Any:
        return jnp.sum((function(q, k, v, lengths) * weight).astype(jnp.float32))

    forward = jax.jit(lambda q, k, v: function(q, k, v, lengths))
    backward = jax.jit(jax.grad(functools.partial(loss, function), argnums=(0, 1, 2)))
    results = (forward(q, k, v), *backward(q, k, v))
    expected = exact(causal, lengths, weight, q, k, v)
    errors = [error(a[:ROWS], b) for a, b in zip(results, expected, strict=True)]
    return {
        "forward_ms": 1e3 * seconds_a_call(forward, q, k, v)["median"],
        "both_ms": 1e3 * seconds_a_call(backward, q, k, v)["median"],
        "errors": errors,
    }


def exact(causal: bool, lengths: Any, weight: Any, *heads: Any) -> tuple[Any, ...]:
    """Result and gradients of the first rows, in float32 on the CPU."""
    with jax.default_device(jax.devices("cpu")[0]):
        cut = (np.asarray(x[:ROWS]).astype(np.float32) for x in (*heads, weight))
        q, k, v, weight = map(jnp.asarray, cut)
        given = None if causal else jnp.asarray(np.asarray(lengths[:ROWS]))

        def attended(*heads: Any) -> Any:
            return attend_plainly(*heads, lengths=given, causal=causal)

        result, pull = jax.vjp(attended, q, k, v)
        return result, *pull(weight)


def error(actual: Any, expected: Any) -> float:
    """Relative error in the norm of all entries."""
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
