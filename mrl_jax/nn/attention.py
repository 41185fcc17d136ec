"""Multi-head attention with grouped keys and values, softmax in float32."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from mrl_jax.nn.block_attention import MASKED, attend_in_blocks, blocks_pay
from mrl_jax.nn.masking import length_mask

QUERIES, BLOCKS = 64, 8
"""Queries of a block in `attend_plainly`, about, and its blocks at most: each is compiled."""
SCORES = 2**22
"""Scores from which on a CPU takes blocks: 16 MiB, as allocating more takes longer than they do."""


def attend(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B L K H"],
    value: Float[Array, "B L K H"],
    *,
    lengths: Int[Array, " B"] | None = None,
    causal: bool = False,
    bias: Float[Array, "B N L L"] | None = None,
    segments: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L N H"]:
    """Scaled dot-product attention.

    Scores are scaled by H^-0.5. N may be a multiple of K: each key/value head then
    serves N / K query heads in order (grouped-query attention, arXiv 2305.13245). On an NVIDIA
    GPU and in half precision it is cuDNN's fused attention, which keeps no scores. Elsewhere
    long sequences are attended to in blocks (`block_attention.blocks_pay`), unless there is a bias
    or there are segments.

    Args:
        query, key, value: heads of width H at L places.
        lengths: keys of each row that its queries may see, from the first on; 1 at the least.
        causal: a query sees the keys up to its own place only.
        bias: added to the scaled scores, [query, key] in each head; never fused.
        segments: number of each place; a query sees the keys of its own number only. Never fused.
    """
    lengths = None if lengths is None else jnp.maximum(lengths, 1)
    options: dict[str, Any] = {"lengths": lengths, "causal": causal}
    if bias is not None or segments is not None:
        return attend_plainly(query, key, value, bias=bias, segments=segments, **options)
    if fused(query):
        return attend_fused(query, key, value, **options)
    if blocks_pay(query.shape[1]):
        return attend_in_blocks(query, key, value, **options)
    return attend_plainly(query, key, value, **options)


def fused(query: Float[Array, "B L N H"]) -> bool:
    """Whether cuDNN's attention takes such queries: half precision, heads of 8 to 128."""
    width = query.shape[-1]
    return _half_on_gpu(query.dtype) and width % 8 == 0 and width <= 128


def fitting_places(places: int, dtype: DTypeLike) -> int:
    """`places`, or where attention may be fused the next multiple of 8.

    A sequence that is padded once spares every layer's attention a copy of its own.
    """
    return places + -places % 8 if _half_on_gpu(dtype) else places


def _half_on_gpu(dtype: DTypeLike) -> bool:
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return half and jax.default_backend() == "gpu"


def attend_fused(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B L K H"],
    value: Float[Array, "B L K H"],
    *,
    lengths: Int[Array, " B"] | None = None,
    causal: bool = False,
) -> Float[Array, "B L N H"]:
    """`attend` by cuDNN, whose backward pass takes an even number of places only."""
    B, L = query.shape[:2]
    if L % 2:
        one = ((0, 0), (0, 1), (0, 0), (0, 0))
        query, key, value = (jnp.pad(x, one) for x in (query, key, value))
        if not causal and lengths is None:
            lengths = jnp.full(B, L, jnp.int32)
    options = {"key_value_seq_lengths": lengths, "is_causal": causal}
    mixed = jax.nn.dot_product_attention(query, key, value, implementation="cudnn", **options)
    return mixed[:, :L]


def attend_plainly(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B L K H"],
    value: Float[Array, "B L K H"],
    *,
    lengths: Int[Array, " B"] | None = None,
    causal: bool = False,
    bias: Float[Array, "B N L L"] | None = None,
    segments: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L N H"]:
    """`attend` written out, for any device and dtype.

    `jax.nn.dot_product_attention` takes several times as long on a CPU: here heads stand before
    places in every product, queries of one group share one, and products have one axis of
    batches, as with two XLA's CPU backend multiplies bfloat16 in float32. A CPU takes the queries
    in blocks where there are many scores, and where only earlier keys are seen, so that up to
    44 % of the scores are never computed.
    """
    B, L, N, H = query.shape
    K = key.shape[2]
    G = N // K
    grouped = query.reshape(B, L, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B * K, -1, L, H)
    key, value = (x.transpose(0, 2, 1, 3).reshape(B * K, L, H) for x in (key, value))
    added = []
    if bias is not None:
        added.append(bias.astype(jnp.float32).reshape(B * K, G, L, L))
    if causal:
        earlier = jnp.tril(jnp.ones((L, L), jnp.bool_))
        added.append(jnp.where(earlier, 0.0, MASKED)[None, None])
    if lengths is not None:
        hidden = jnp.where(length_mask(lengths, L), 0.0, MASKED)
        added.append(jnp.repeat(hidden, K, axis=0)[:, None, :])
    if segments is not None:
        same = segments[:, :, None] == segments[:, None, :]
        added.append(jnp.repeat(jnp.where(same, 0.0, MASKED), K, axis=0)[:, None])
    size = _queries_at_once(B * N, L, causal=causal)
    mixed = []
    for first in range(0, L, size):
        rows, seen = slice(first, first + size), min(first + size, L) if causal else L
        parts = [x[..., :seen] if x.ndim == 3 else x[:, :, rows, :seen] for x in added]
        mixed.append(_attend_rows(grouped[:, :, rows], key[:, :seen], value[:, :seen], parts))
    together = jnp.concatenate(mixed, axis=2).reshape(B, N, L, H)
    return together.transpose(0, 2, 1, 3).astype(query.dtype)


def _queries_at_once(heads: Any, places: int, *, causal: bool) -> int:
    """Queries of each block of `attend_plainly`; `heads` is no number in an exported program."""
    if jax.default_backend() != "cpu":
        return places
    most = min(max(1, round(places / QUERIES)), BLOCKS)
    needed = math.ceil(heads * places**2 / SCORES) if isinstance(heads, int) else 1
    return math.ceil(places / (most if causal else min(most, needed)))


def _attend_rows(
    query: Float[Array, "heads G Q H"],
    key: Float[Array, "heads L H"],
    value: Float[Array, "heads L H"],
    added: Sequence[Float[Array, "..."]],
) -> Float32[Array, "heads G Q H"]:
    """Attention of some queries.

    What is `added` to their scaled scores is [#heads, #G, Q, L], or [heads, 1, L] for all queries.
    """
    heads, G, Q, H = query.shape
    query = query.reshape(heads, G * Q, H)
    scores = jnp.einsum("bqh,blh->bql", query, key, preferred_element_type=jnp.float32)
    scores = scores * H**-0.5
    for one in added:
        if one.ndim == 4:
            of_groups = jnp.broadcast_to(one, (one.shape[0], G, *one.shape[2:]))
            one = of_groups.reshape(one.shape[0], G * Q, -1)
        scores = scores + one
    peak = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights.astype(value.dtype)
    mixed = jnp.einsum("bql,blh->bqh", weights, value, preferred_element_type=jnp.float32)
    # Divided after the product, which is H wide where the weights are L.
    return (mixed / total).reshape(heads, G, Q, H)
