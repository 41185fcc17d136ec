"""Products in bfloat16: rounded once, with gradients of their own; and stacks that stay narrow."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.nn import param_tree
from mrl_jax.nn.linear import Conv, Linear, convolve_by_rows, multiply

SIZES: dict[str, Any] = {"width": 64, "num_layers": 6, "num_heads": 4, "num_kv_heads": 2}
CONFIG = Qwen3Config(
    **SIZES, vocab_size=64, head_width=16, mlp_width=256, rope_theta=1e6, norm_epsilon=1e-6
)
HALF: dict[str, Any] = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
ULP = 2.0**-8
"""Half a unit in the last place of bfloat16, relative."""


def bfloat16_noise(seed: int, *shape: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return noise.astype(ml_dtypes.bfloat16)


def test_a_product_is_rounded_once():
    x, kernel = bfloat16_noise(0, 3, 5, 700), bfloat16_noise(1, 700, 8)
    exact = x.astype(np.float64) @ kernel.astype(np.float64)
    product = multiply(jnp.asarray(x), jnp.asarray(kernel))
    assert product.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(product, np.float64), exact, rtol=ULP, atol=1e-3)
    # Summing in bfloat16 is far from it.
    summed = np.zeros((3, 5, 8), ml_dtypes.bfloat16)
    for place in range(700):
        summed += x[..., place, None] * kernel[place]
    assert np.abs(summed.astype(np.float64) - exact).max() > 0.1


def test_gradients_are_those_of_the_product():
    x, kernel, weights = (
        bfloat16_noise(seed, *shape) for seed, shape in enumerate([(3, 5, 40), (40, 8), (3, 5, 8)])
    )

    def loss(x: Any, kernel: Any) -> Any:
        return jnp.sum(multiply(x, kernel).astype(jnp.float32) * weights.astype(np.float32))

    to_x, to_kernel = jax.grad(loss, argnums=(0, 1))(jnp.asarray(x), jnp.asarray(kernel))
    assert to_x.dtype == to_kernel.dtype == jnp.bfloat16
    wide = [array.astype(np.float64) for array in (x, kernel, weights)]
    for gradient, exact in (
        (to_x, wide[2] @ wide[1].T),
        (to_kernel, np.einsum("bli,blo->io", wide[0], wide[2])),
    ):
        np.testing.assert_allclose(np.asarray(gradient, np.float64), exact, rtol=ULP, atol=1e-3)


@settings(deadline=None)
@given(
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    more=st.integers(0, 12),
    channels=st.integers(1, 4),
)
def test_a_convolution_by_rows_is_torchs(kernel, stride, more, channels):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, kernel + more, channels), np.float32)
    weights = rng.standard_normal((kernel, channels, 3), np.float32)
    ours = convolve_by_rows(jnp.asarray(x), jnp.asarray(weights), stride)
    channels_first = torch.from_numpy(x.transpose(0, 2, 1).copy())
    filters = torch.from_numpy(weights.transpose(2, 1, 0).copy())
    theirs = torch.nn.functional.conv1d(channels_first, filters, stride=stride)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 1), atol=1e-5)


@pytest.mark.parametrize(("inputs", "by_rows"), [(32, True), (2, False)])
def test_layers_are_flaxs_in_float32_and_close_in_bfloat16(inputs, by_rows):
    """The convolution of few channels is left to XLA."""
    conv: dict[str, Any] = {"kernel_size": 3, "strides": 2, "padding": "VALID"}
    x = jnp.asarray(bfloat16_noise(0, 2, 21, inputs))
    for kind, flaxs, options in ((Linear, nnx.Linear, {}), (Conv, nnx.Conv, conv)):
        wide: Any = kind(inputs, 6, rngs=nnx.Rngs(0), **options)
        same: Any = flaxs(inputs, 6, rngs=nnx.Rngs(0), **options)
        exact = same(x.astype(jnp.float32))
        np.testing.assert_array_equal(wide(x.astype(jnp.float32)), exact)
        narrow: Any = kind(inputs, 6, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, **options)
        rounded = narrow(x)
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(rounded, np.float32), exact, atol=0.05)
    convolutions = str(jax.make_jaxpr(narrow)(x)).count("conv_general_dilated")
    assert convolutions == (0 if by_rows else 1)


def embed(tower: Qwen3Encoder, ids: Any) -> Any:
    return tower.embed(ids, jnp.ones(ids.shape, jnp.bool_))


def towers() -> tuple[Qwen3Encoder, Qwen3Encoder, Any]:
    """The same tower, to be trained and frozen, in bfloat16; and ids."""
    trained = Qwen3Encoder(CONFIG, **HALF, rngs=nnx.Rngs(0))
    frozen = param_tree.freeze(Qwen3Encoder(CONFIG, **HALF, rngs=nnx.Rngs(0)))
    return trained, frozen, jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 5)))


def test_a_frozen_stack_computes_what_a_trained_one_does():
    trained, frozen, ids = towers()
    np.testing.assert_array_equal(embed(frozen, ids), embed(trained, ids))


def test_a_trained_stack_in_bfloat16_has_gradients():
    """Whole numbers, as which frozen layers are taken from their stack, have none."""
    trained, _, ids = towers()
    gradients = nnx.grad(lambda tower: jnp.sum(embed(tower, ids)[:, :7]))(trained)
    weights = param_tree.flat_weights(trained)
    for path, leaf in nnx.to_flat_state(gradients):
        if "layers" in path:
            largest = np.abs(np.asarray(leaf.get_value(), np.float32)).max(axis=-1)
            assert (largest.reshape(CONFIG.num_layers, -1).max(axis=1) > 0).all(), path
    assert len(weights) == len(nnx.to_flat_state(gradients))


def test_frozen_layers_are_not_widened():
    """The whole stack in float32 beside itself in bfloat16 would be three times its memory."""
    _, frozen, ids = towers()
    split = param_tree.split(frozen)

    def run(frozen: Any) -> Any:
        return embed(split.rebuild(split.trained, frozen), ids)

    program = jax.jit(run).lower(split.frozen).compile()
    stack = sum(a.size for path, a in split.frozen.items() if path.startswith("layers"))
    analysis = program.memory_analysis()
    assert analysis is not None
    # Two bytes a weight would be a copy of it all.
    assert analysis.temp_size_in_bytes < stack
    shape = (CONFIG.num_layers, CONFIG.width, CONFIG.mlp_width)
    assert f"f32[{','.join(map(str, shape))}]" not in program.as_text()
