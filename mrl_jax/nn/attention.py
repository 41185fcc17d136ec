"""Multi-head attention with grouped keys and values, softmax in float32."""

import jax

from mrl_jax.array_types import Array, Bool, Float


def attend(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B L K H"],
    value: Float[Array, "B L K H"],
    mask: Bool[Array, " B #heads #L L"] | None,
) -> Float[Array, "B L N H"]:
    """Scaled dot-product attention; `mask` is True where a query may see a key.

    Scores are scaled by H^-0.5. N may be a multiple of K: each key/value head then
    serves N / K query heads in order (grouped-query attention, arXiv 2305.13245).
    """
    # jax asks for the wider of two dtypes in here, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value, mask=mask)
