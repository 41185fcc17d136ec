"""Multi-head attention with grouped keys and values, softmax in float32."""

import jax.numpy as jnp
from jax import lax

from mrl_jax.array_types import Array, Bool, Float

MASKED = -1e30
"""Added to the score of a hidden key: far below any score, and still finite."""


def attend(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B L K H"],
    value: Float[Array, "B L K H"],
    mask: Bool[Array, " B #heads #L L"] | None,
) -> Float[Array, "B L N H"]:
    """Scaled dot-product attention; `mask` is True where a query may see a key.

    Scores are scaled by H^-0.5. N may be a multiple of K: each key/value head then
    serves N / K query heads in order (grouped-query attention, arXiv 2305.13245). A
    query that may see no key gets the mean of all values.

    Written out because `jax.nn.dot_product_attention` takes twice the time on CPU:
    queries of one group share a product here, and the sum of the weights is divided
    out of the result, which has fewer elements than the weights.
    """
    B, L, N, H = query.shape
    K = key.shape[2]
    grouped = query.reshape(B, L, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
    scores = jnp.einsum(
        "bkqh,blkh->bkql", grouped, key, preferred_element_type=jnp.float32
    ).reshape(B, K, N // K, L, L)
    scores = scores * H**-0.5
    if mask is not None:
        scores = scores + jnp.where(mask, 0.0, MASKED)[:, :, None]
    peak = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mixed = jnp.einsum(
        "bkql,blkh->bkqh",
        weights.reshape(B, K, -1, L).astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    ).reshape(B, K, N // K, L, H)
    return (mixed / total).transpose(0, 3, 1, 2, 4).reshape(B, L, N, H).astype(query.dtype)
