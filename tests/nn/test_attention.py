"""Attention against torch's scaled_dot_product_attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.nn.attention import attend
from mrl_jax.nn.masking import causal_mask

TOLERANCE = 1e-5
BATCH, LENGTH, HEAD = 2, 7, 8


def _inputs(heads: int, kv_heads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(BATCH, LENGTH, n, HEAD) for n in (heads, kv_heads, kv_heads)]
    query, key, value = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return query, key, value


def _torch_attention(query, key, value, mask) -> np.ndarray:
    """torch's heads stand before its tokens."""
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(x).transpose(1, 2) for x in (query, key, value)]
    mixed = torch.nn.functional.scaled_dot_product_attention(
        *tensors, attn_mask=None if mask is None else torch.from_numpy(mask), enable_gqa=True
    )
    return mixed.transpose(1, 2).numpy()


def _ours(query, key, value, mask) -> np.ndarray:
    mask = None if mask is None else jnp.asarray(mask)
    return np.asarray(attend(jnp.asarray(query), jnp.asarray(key), jnp.asarray(value), mask))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize("masked", ["none", "keys", "causal"])
def test_attention_is_torch(heads, kv_heads, masked):
    inputs = _inputs(heads, kv_heads)
    valid = np.array([[True] * 7, [True] * 4 + [False] * 3])
    mask = {
        "none": None,
        "keys": valid[:, None, None, :].copy(),
        "causal": np.asarray(causal_mask(jnp.asarray(valid))).copy(),
    }[masked]
    actual = _ours(*inputs, mask)
    np.testing.assert_allclose(actual, _torch_attention(*inputs, mask), atol=TOLERANCE)
    if mask is not None:
        assert np.abs(actual - _ours(*inputs, None)).max() > 0.1


def test_each_key_head_serves_neighbouring_query_heads():
    """Grouped heads are 0 0 1 1, not 0 1 0 1."""
    query, key, value = _inputs(4, 2)
    actual = _ours(query, key, value, None)
    repeated = _ours(query, key.repeat(2, axis=2), value.repeat(2, axis=2), None)
    tiled = _ours(query, np.tile(key, (1, 1, 2, 1)), np.tile(value, (1, 1, 2, 1)), None)
    np.testing.assert_allclose(actual, repeated, atol=TOLERANCE)
    assert np.abs(actual - tiled).max() > 0.1


def test_a_query_that_sees_no_key_is_finite_in_value_and_gradient():
    # So stands the first padded query of a left-padded text: its NaN would spread.
    query, key, value = (jnp.asarray(x) for x in _inputs(4, 2))
    mask = causal_mask(jnp.asarray([[False, False] + [True] * 5, [True] * 7]))

    def loss(query, key, value):
        return jnp.sum(jnp.square(attend(query, key, value, mask)[:, 2:]))

    assert np.isfinite(np.asarray(attend(query, key, value, mask))).all()
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(query, key, value)
    for gradient in gradients:
        assert np.isfinite(np.asarray(gradient)).all()
        assert np.abs(np.asarray(gradient)).max() > 0
    # What valid queries get from the two masked keys is nothing at all.
    _, key_gradient, value_gradient = gradients
    assert not np.asarray(key_gradient[0, :2]).any()
    assert not np.asarray(value_gradient[0, :2]).any()


def test_bfloat16_softmax_is_summed_in_float32():
    """1024 equal weights: a bfloat16 sum would stop growing at 256."""
    length = 1024
    query = jnp.zeros((1, length, 1, HEAD), jnp.bfloat16)
    value = jnp.ones((1, length, 1, HEAD), jnp.bfloat16)
    mixed = attend(query, query, value, None)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(mixed, np.float32), 1.0, atol=2**-7)
    naive = jax.lax.fori_loop(0, length, lambda _, x: x + jnp.ones((), x.dtype), jnp.bfloat16(0))
    assert float(naive) == 256
