"""Exact search: the best documents of each query, on the device, chunk by chunk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mrl_jax.array_types import Array, Float32, HostArray, Int


def search(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: int,
    *,
    chunk: int = 65_536,
) -> tuple[Float32[HostArray, "Q k"], Int[HostArray, "Q k"]]:
    """The k best documents of each query by inner product, best first.

    Products run in full float32. Equal scores are told in the order of the documents,
    lowest index first, so the caller's order of the corpus is the rule for ties.

    Args:
        queries: unit vectors.
        documents: unit vectors.
        k: documents a query; at most N are given.
        chunk: documents that are scored at once; the result does not depend on it.

    Returns:
        scores and document indices, both [Q, min(k, N)].
    """
    k = min(k, len(documents))
    best: tuple[Array, Array] | None = None
    for start in range(0, len(documents), chunk):
        part = documents[start : start + chunk]
        found = _top(jnp.asarray(queries), jnp.asarray(part), min(k, len(part)))
        found = found[0], found[1] + jnp.int32(start)
        # Earlier documents stand first, so that top_k keeps them on ties.
        best = found if best is None else _merge(best, found, k)
    if best is None:
        raise ValueError("there are no documents to search")
    return np.asarray(best[0]), np.asarray(best[1])


def unit_prefix(vectors: Float32[HostArray, "R E"], dim: int | None) -> Float32[HostArray, "R P"]:
    """The first `dim` coordinates of each row, all of them for None, at unit length."""
    cut = vectors[:, :dim]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.float32(1e-12))


@functools.partial(jax.jit, static_argnames="k")
def _top(
    queries: Float32[Array, "Q E"], documents: Float32[Array, "N E"], k: int
) -> tuple[Array, Array]:
    scores = jnp.matmul(queries, documents.T, precision=lax.Precision.HIGHEST)
    top, indices = lax.top_k(scores, k)
    return top, indices


@functools.partial(jax.jit, static_argnames="k")
def _merge(first: tuple[Array, Array], second: tuple[Array, Array], k: int) -> tuple[Array, Array]:
    scores, indices = (jnp.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
    top, places = lax.top_k(scores, min(k, scores.shape[1]))
    return top, jnp.take_along_axis(indices, places, axis=1)
