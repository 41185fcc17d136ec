"""Activation functions against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.nn.activations import gelu

X = np.linspace(-12, 12, 4001, dtype=np.float32)


def test_gelu_is_torch():
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.gelu(torch.from_numpy(X)).numpy()
    actual = np.asarray(gelu(jnp.asarray(X)))
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    tanh = np.asarray(jax.nn.gelu(jnp.asarray(X), approximate=True))
    assert np.abs(tanh - expected).max() > 1e-4


def test_gelu_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(X, jnp.bfloat16)
    actual = gelu(x)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_array_equal(actual, gelu(x.astype(jnp.float32)).astype(jnp.bfloat16))
