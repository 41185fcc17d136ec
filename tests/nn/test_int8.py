"""Eight-bit weights: how far they are from the weights they stand for, and a tower of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.nn import param_tree
from mrl_jax.nn.int8 import Int8Weight, dequantize, quantize, quantize_layers

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "width": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
}
CONFIG = Qwen3Config(**SIZES, head_width=8, mlp_width=64, rope_theta=1e6, norm_epsilon=1e-6)
WEIGHTS = st.floats(-8, 8, width=32)


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 5, 3), elements=WEIGHTS))
def test_every_weight_is_within_half_a_step(kernel):
    held = quantize(jnp.asarray(kernel))
    assert held.values.dtype == jnp.int8
    steps = np.abs(kernel).max(axis=1, keepdims=True) / 127
    error = np.abs(np.asarray(held.dequantize()) - kernel)
    assert (error <= steps / 2 + 1e-6).all()


def test_an_output_has_a_scale_of_its_own():
    """With one scale for all, the small output would be lost."""
    kernel = jnp.asarray([[100.0, 0.01], [-50.0, 0.02]])
    back = np.asarray(quantize(kernel).dequantize())
    np.testing.assert_allclose(back, kernel, rtol=0.01)
    assert np.asarray(quantize(jnp.zeros((2, 2))).dequantize()).tolist() == [[0, 0], [0, 0]]


def test_dtype_is_that_of_the_kernel():
    kernel = jnp.ones((4, 4), jnp.bfloat16)
    assert dequantize({"a": quantize(kernel), "b": kernel})["a"].dtype == jnp.bfloat16


def test_a_tower_in_eight_bits_embeds_nearly_the_same_in_half_of_bfloat16():
    options = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    tower = Qwen3Encoder(CONFIG, **options, rngs=nnx.Rngs(0))
    weights = {path: leaf.get_value() for path, leaf in param_tree.flat_weights(tower).items()}
    held = quantize_layers(weights)
    small = param_tree.fill(tower, held)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 64, (5, 9)))
    mask = jnp.ones(ids.shape, jnp.bool_)
    expected, actual = tower.embed(ids, mask), small.embed(ids, mask)
    cosines = np.sum(np.asarray(expected) * np.asarray(actual), axis=1)
    assert cosines.min() > 0.999
    assert not np.array_equal(expected, actual)

    kernels = [path for path, array in held.items() if isinstance(array, Int8Weight)]
    assert len(kernels) == 7  # Four of attention, three of the MLP; norms and embeddings stay.

    def size(tree):
        return sum(x.nbytes for x in jax.tree.leaves(tree))

    assert sum(map(size, (held[p] for p in kernels))) < 0.6 * sum(
        map(size, (weights[p] for p in kernels))
    )
