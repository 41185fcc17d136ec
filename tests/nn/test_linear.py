"""Products in bfloat16: rounded once, with gradients of their own; and stacks that stay narrow."""

import functools
from collections.abc import Callable
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
from traced import equations

from mrl_jax.models.lora import LoraConfig, initial_factors
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.nn import param_tree
from mrl_jax.nn.linear import Conv, Linear, convolve_by_rows, multiply
from mrl_jax.training.flops import count_matmul_flops
from mrl_jax.training.text_tower.step import tower_rebuilder

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


def dots(run: Callable[..., Any], *arrays: Any) -> set[tuple[Any, ...]]:
    """Dtypes of both sides and of the result of every product in a traced function."""
    return {
        tuple(side.aval.dtype.name for side in (*equation.invars, *equation.outvars))
        for equation in equations(jax.make_jaxpr(run)(*arrays).jaxpr)
        if equation.primitive.name == "dot_general"
    }


def test_products_ask_for_float32_in_both_directions():
    """It is what makes them fast; a product of two dtypes would be as slow as in float32."""
    asked = {("bfloat16", "bfloat16", "float32")}
    x, kernel = (jnp.asarray(bfloat16_noise(0, *shape)) for shape in ((2, 64, 32), (32, 8)))

    def loss(*arrays: Any) -> Any:
        return jnp.sum(multiply(*arrays).astype(jnp.float32))

    def convolved(x: Any) -> Any:
        conv = Conv(32, 8, kernel_size=3, strides=2, padding="VALID", **HALF, rngs=nnx.Rngs(0))
        return jnp.sum(conv(x).astype(jnp.float32))

    assert dots(multiply, x, kernel) == asked
    assert dots(jax.grad(loss, argnums=(0, 1)), x, kernel) == asked
    assert dots(jax.grad(convolved), x) == asked
    assert dots(lambda x, kernel: x @ kernel, x, kernel) != asked


def test_gradients_do_not_depend_on_what_else_was_differentiated():
    """Both are of one traced program, and the second is derived before the first is computed."""
    x, kernel = (jnp.asarray(bfloat16_noise(seed, 8, 8)) for seed in (0, 1))
    product = jax.jit(lambda x, kernel: jnp.sum(multiply(x, kernel).astype(jnp.float32)))
    _, to_x = jax.vjp(lambda x: product(x, kernel), x)
    _, to_kernel = jax.vjp(lambda kernel: product(x, kernel), kernel)
    ones = np.ones((8, 8))
    for gradient, exact in (
        (to_x(jnp.float32(1)), ones @ np.asarray(kernel, np.float64).T),
        (to_kernel(jnp.float32(1)), np.asarray(x, np.float64).T @ ones),
    ):
        np.testing.assert_allclose(np.asarray(gradient[0], np.float64), exact, rtol=ULP, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_backward_pass_keeps_products(dtype):
    """Forward, and as much again for the gradient of the input: nothing is computed twice."""

    def flops(*, remat: bool, backward: bool = True) -> float:
        options = {"dtype": dtype, "param_dtype": dtype, "remat": remat}
        tower = param_tree.freeze(Qwen3Encoder(CONFIG, **options, rngs=nnx.Rngs(0)))

        def projected(x: Any) -> Any:
            # Attention's own products, of two places, are a small part.
            return jnp.sum(embed(tower, x)[:, :7])

        x = jnp.ones((4, 2, CONFIG.width), dtype)
        return count_matmul_flops(jax.grad(projected) if backward else projected, x)

    forward = flops(remat=False, backward=False)
    assert forward * 1.95 < flops(remat=False) < forward * 2.1
    assert flops(remat=True) > forward * 2.6  # The last product of a layer is not needed again.


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


CONVOLUTIONS: dict[str, tuple[int, dict[str, Any], bool]] = {
    "strided": (32, {"strides": 2}, True),
    "of few channels": (2, {"strides": 2}, False),
    "dilated": (32, {"strides": 2, "kernel_dilation": 2}, False),
    "in groups": (32, {"strides": 2, "feature_group_count": 2}, False),
    "padded": (32, {"strides": 2, "padding": "SAME"}, False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_flaxs(name):
    """Those that are no products of whole strides are left to XLA."""
    inputs, changed, by_rows = CONVOLUTIONS[name]
    options = {"kernel_size": 3, "padding": "VALID", "rngs": nnx.Rngs(0)} | changed
    x = jnp.asarray(bfloat16_noise(0, 2, 21, inputs))
    make: Any = functools.partial(Conv, inputs, 6)
    flaxs: Any = nnx.Conv(inputs, 6, **options)
    narrow = make(**options | {"rngs": nnx.Rngs(0)}, dtype=jnp.bfloat16)
    exact = flaxs(x.astype(jnp.float32))
    same = make(**options | {"rngs": nnx.Rngs(0)})
    np.testing.assert_array_equal(same(x.astype(jnp.float32)), exact)
    rounded = narrow(x)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(rounded, np.float32), exact, atol=0.05)
    assert ("conv_general_dilated" in str(jax.make_jaxpr(narrow)(x))) is not by_rows


def test_linear_layers_are_flaxs():
    x = jnp.asarray(bfloat16_noise(0, 2, 21, 32))
    exact = nnx.Linear(32, 6, rngs=nnx.Rngs(0))(x.astype(jnp.float32))
    same = Linear(32, 6, rngs=nnx.Rngs(0))(x.astype(jnp.float32))
    np.testing.assert_array_equal(same, exact)
    rounded = Linear(32, 6, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)(x)
    np.testing.assert_allclose(np.asarray(rounded, np.float32), exact, atol=0.05)


def embed(tower: Qwen3Encoder, ids: Any) -> Any:
    return tower.embed(ids, jnp.ones(ids.shape[:2], jnp.bool_))


def towers() -> tuple[Qwen3Encoder, Qwen3Encoder, Any]:
    """The same tower, to be trained and frozen, in bfloat16; and ids."""
    trained = Qwen3Encoder(CONFIG, **HALF, rngs=nnx.Rngs(0))
    frozen = param_tree.freeze(Qwen3Encoder(CONFIG, **HALF, rngs=nnx.Rngs(0)))
    return trained, frozen, jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 5)))


@pytest.mark.parametrize("unroll", [False, True])
def test_a_frozen_stack_computes_what_a_trained_one_does(unroll):
    trained, frozen, ids = towers()
    frozen.unroll = trained.unroll = unroll
    np.testing.assert_allclose(embed(frozen, ids), embed(trained, ids), atol=2e-3)
    other = jnp.flip(ids, axis=1)
    assert np.abs(np.asarray(embed(frozen, other) - embed(trained, ids))).max() > 0.1


@pytest.mark.parametrize("kind", ["trained", "frozen"])
def test_every_layer_has_a_gradient(kind):
    """Whole numbers, as which frozen layers are taken from their stack, have none of their own."""
    graphdef, state = nnx.split(dict(zip(("trained", "frozen"), towers(), strict=False))[kind])
    *_, ids = towers()
    gradients = jax.grad(lambda state: jnp.sum(embed(nnx.merge(graphdef, state), ids)[:, :7]))(
        state
    )
    exact = jax.grad(lambda state: jnp.sum(embed(wide_tower(state), ids)[:, :7]))(state)
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(exact), strict=True)
    for ours, theirs in ((np.asarray(a, np.float32), np.asarray(b, np.float32)) for a, b in pairs):
        size = np.linalg.norm(theirs)
        assert size > 0
        assert np.linalg.norm(ours - theirs) < 0.1 * size


def wide_tower(state: Any) -> Qwen3Encoder:
    """The tower of these weights in float32."""
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: Qwen3Encoder(CONFIG, rngs=nnx.Rngs(0))))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), state)
    leaves = [(path, nnx.Param(leaf.get_value())) for path, leaf in nnx.to_flat_state(wide)]
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


def temporary_bytes(run: Callable[[Any], Any], weights: Any) -> int:
    analysis = jax.jit(run).lower(weights).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_frozen_layers_are_not_widened():
    """The whole stack in float32, beside itself in bfloat16, would be three times its memory."""
    trained, frozen, ids = towers()
    sizes = []
    for tower in (frozen, trained):
        graphdef, state = nnx.split(tower)
        run = functools.partial(lambda graph, state: embed(nnx.merge(graph, state), ids), graphdef)
        sizes.append(temporary_bytes(run, state))
    stack = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(frozen.layers)))
    assert sizes[0] < 2 * stack < sizes[1]


def test_the_frozen_kernels_of_a_tower_with_factors_are_not_widened():
    lora = LoraConfig(rank=2)
    rebuild = tower_rebuilder(CONFIG, jnp.bfloat16, remat=False, lora=lora)
    _, frozen, ids = towers()
    weights = {
        path: leaf.get_value().astype(jnp.bfloat16)
        for path, leaf in param_tree.flat_weights(frozen).items()
    }
    factors = initial_factors(CONFIG, lora, 0)
    narrow = {path: array.astype(jnp.bfloat16) for path, array in factors.items()}

    def run(frozen: Any) -> Any:
        return embed(rebuild(param_tree.nest(narrow), frozen), ids)

    stack = sum(array.size for path, array in weights.items() if path.startswith("layers"))
    assert temporary_bytes(run, weights) < 2 * stack
