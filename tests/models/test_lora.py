"""Low-rank factors beside a tower's projections, against their definition in numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mrl_jax.core.errors import ArgumentError
from mrl_jax.models.lora import (
    PROJECTIONS,
    LoraConfig,
    LoraLinear,
    abstract_lora,
    factor_shapes,
    initial_factors,
    merge_factors,
)
from mrl_jax.models.qwen3 import Qwen3Config, abstract_qwen3
from mrl_jax.nn import param_tree

SIZES = Qwen3Config(
    vocab_size=11,
    width=8,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_width=4,
    mlp_width=12,
    rope_theta=1e4,
    norm_epsilon=1e-6,
)
SHAPES = {
    "attention.q_proj": (8, 16),
    "attention.k_proj": (8, 8),
    "attention.v_proj": (8, 8),
    "attention.o_proj": (16, 8),
    "mlp.gate_proj": (8, 12),
    "mlp.up_proj": (8, 12),
    "mlp.down_proj": (12, 8),
}


def test_a_layer_is_its_definition():
    rng = np.random.default_rng(0)
    layer = LoraLinear(nnx.Linear(6, 5, use_bias=False, rngs=nnx.Rngs(0)), rank=2, scale=1.5)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 2), (2, 5)))
    layer.lora_a[...], layer.lora_b[...] = jnp.asarray(a), jnp.asarray(b)
    x = rng.normal(size=(3, 4, 6)).astype(np.float32)
    kernel = np.asarray(layer.kernel[...])
    expected = x @ kernel + 1.5 * (x @ a) @ b
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=1e-5)
    assert np.abs(expected - x @ kernel).max() > 0.1


def test_factors_stand_beside_the_projections_that_are_named():
    lora = LoraConfig(rank=3)
    assert factor_shapes(SIZES, lora) == {
        f"layers.{path}.{name}": (3, *shape)
        for path, (inputs, outputs) in SHAPES.items()
        for name, shape in (("lora_a", (inputs, 3)), ("lora_b", (3, outputs)))
    }
    some = dataclasses.replace(lora, targets=("up_proj",))
    factors = set(factor_shapes(SIZES, some))
    assert factors == {f"layers.mlp.up_proj.{name}" for name in ("lora_a", "lora_b")}
    # All other leaves are those of a tower without factors, and freezing leaves the factors.
    plain = param_tree.flat_weights(abstract_qwen3(SIZES))
    frozen = param_tree.freeze(abstract_lora(SIZES, some))
    assert set(param_tree.flat_weights(frozen)) == {*plain, *factors}
    assert set(param_tree.flatten(param_tree.split(frozen).trained)) == factors


def test_the_first_factors_are_as_pefts():
    lora = LoraConfig(rank=4, targets=("o_proj", "down_proj"))
    factors = initial_factors(SIZES, lora, 0)
    for path, factor in factors.items():
        assert factor.dtype == jnp.float32
        if path.endswith("lora_b"):
            assert not np.any(factor)
            continue
        bound = factor.shape[1] ** -0.5
        assert np.abs(factor).max() <= bound
        assert np.abs(factor).max() > 0.9 * bound
        layers = np.asarray(factor)
        assert not np.array_equal(layers[0], layers[1])
    other = initial_factors(SIZES, lora, 1)
    path = "layers.mlp.down_proj.lora_a"
    assert not np.array_equal(factors[path], other[path])
    assert jax.tree.all(jax.tree.map(np.array_equal, factors, initial_factors(SIZES, lora, 0)))


def test_merging_adds_the_products_in_float32():
    lora = LoraConfig(rank=2, alpha=3.0, targets=("k_proj",))
    rng = np.random.default_rng(0)
    name = "layers.attention.k_proj"
    weights = {
        f"{name}.kernel": rng.normal(size=(3, 8, 8)).astype(jnp.bfloat16),
        "final_norm.scale": np.ones(8, np.float32),
    }
    factors = {
        path: rng.normal(size=shape).astype(np.float32)
        for path, shape in factor_shapes(SIZES, lora).items()
    }
    merged = merge_factors(weights, factors, lora)
    before = weights[f"{name}.kernel"].astype(np.float32)
    a, b = factors[f"{name}.lora_a"], factors[f"{name}.lora_b"]
    for layer in range(3):
        change = merged[f"{name}.kernel"][layer] - before[layer]
        np.testing.assert_allclose(change, 1.5 * a[layer] @ b[layer], atol=1e-5)
    assert merged["final_norm.scale"] is weights["final_norm.scale"]
    assert weights[f"{name}.kernel"].dtype == jnp.bfloat16  # Not changed in place.
    rounded = merge_factors(weights, factors, lora, dtype=jnp.bfloat16)[f"{name}.kernel"]
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded, merged[f"{name}.kernel"].astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ("q_proj", "query")}, f"'query', expected some of {', '.join(PROJECTIONS)}"),
        ({"targets": ()}, "targets is empty"),
        ({"targets": ("q_proj",) * 2}, "a name twice"),
        ({"rank": -1}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("inf")}, "expected a finite number"),
    ],
)
def test_what_no_factors_can_be(fields, message):
    with pytest.raises(ArgumentError, match=message):
        LoraConfig(**fields)


def test_ranks_that_a_tower_has_no_room_for():
    with pytest.raises(ArgumentError, match="rank is 8, expected less than 8, the smaller side of"):
        factor_shapes(SIZES, LoraConfig(rank=8))
    wide = LoraConfig(rank=8, targets=("k_proj",))
    with pytest.raises(ArgumentError, match="of k_proj"):
        factor_shapes(SIZES, wide)
    with pytest.raises(ArgumentError, match="rank is 0, expected 1 or more"):
        abstract_lora(SIZES, LoraConfig())
