"""Multi-head attention with grouped keys and values, softmax in float32."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

MASKED = -1e30
"""Added to the score of a hidden key: far below any score, and still finite."""


def attend(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B L K H"],
    value: Float[Array, "B L K H"],
    mask: Bool[Array, "B 1 #L L"] | None,
) -> Float[Array, "B L N H"]:
    """Scaled dot-product attention; `mask` is True where a query may see a key.

    Scores are scaled by H^-0.5. N may be a multiple of K: each key/value head then
    serves N / K query heads in order (grouped-query attention, arXiv 2305.13245). A
    query that may see no key gets the mean of all values.

    Written out because `jax.nn.dot_product_attention` takes up to twice the time on CPU: here
    heads stand before places in every product, queries of one group share one, and scores
    keep four axes (with a fifth for the groups, XLA's CPU backend is twice as slow).
    """
    B, L, N, H = query.shape
    K = key.shape[2]
    groups = N // K
    grouped = query.reshape(B, L, K, groups, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    scores = jnp.einsum("bkqh,bklh->bkql", grouped, key, preferred_element_type=jnp.float32)
    scores = scores * H**-0.5
    if mask is not None:
        bias = jnp.where(mask, 0.0, MASKED)
        scores = scores + (bias if bias.shape[2] == 1 else jnp.tile(bias, (1, 1, groups, 1)))
    peak = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights.astype(value.dtype)
    mixed = jnp.einsum("bkql,bklh->bkqh", weights, value, preferred_element_type=jnp.float32)
    mixed = mixed / total  # After the product, which is H wide where the weights are L.
    mixed = mixed.reshape(B, K, groups, L, H).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(B, L, N, H).astype(query.dtype)
