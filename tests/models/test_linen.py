"""Towers inside Flax Linen: the same numbers, alone and as a submodule."""

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from flax import linen, nnx
from tolerances import DIFFERS, EXACT, QUICK

import mrl_jax
from converters.convert import convert
from converters.random_init import random_init
from mrl_jax.nn import param_tree

FAMILIES = ("qwen3", "hubert")
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {**published.QWEN3, "model_type": "qwen3", "rms_norm_eps": 1e-6},
    "hubert": {
        **published.HUBERT,
        "model_type": "hubert",
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    },
}
LOADERS = {"qwen3": mrl_jax.load_qwen3, "hubert": mrl_jax.load_hubert}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for family, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(family)
        (folder / "config.json").write_text(json.dumps(config))
        random_init(family, folder / "config.json", folder / "source")
        convert(str(folder / "source"), folder / "tower", family=family)
        made[family] = folder / "tower"
    return made


@pytest.fixture(scope="module")
def towers(folders) -> dict[str, nnx.Module]:
    return {family: LOADERS[family](folder) for family, folder in folders.items()}


def _batch(family: str) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    if family == "qwen3":
        mask = np.arange(6)[None] < np.array([6, 3])[:, None]
        return jnp.asarray(rng.integers(0, 101, (2, 6), np.int32)), jnp.asarray(mask)
    return jnp.asarray(rng.standard_normal((2, 1200), np.float32)), jnp.asarray([1200, 700])


def _array(output) -> jax.Array:
    """The hidden state of an output, or embeddings as they are."""
    return getattr(output, "last_hidden", output)


def _nnx(tower, batch, method: str = "__call__") -> np.ndarray:
    graphdef, state = nnx.split(tower)
    run = jax.jit(
        lambda state: _array(getattr(nnx.merge(graphdef, state), method)(*batch)),
        compiler_options=QUICK,
    )
    return np.asarray(run(state))


def _linen(module, batch, **options):
    """What `module` computes from variables, as a compiled function that takes no warning."""
    run = functools.partial(jax.jit, compiler_options=QUICK)(
        lambda variables: _array(module.apply(variables, *batch, **options))
    )

    def strict(variables) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return np.asarray(run(variables))

    return strict


@pytest.mark.parametrize("family", FAMILIES)
def test_apply_is_the_module(towers, family):
    module, variables = mrl_jax.to_linen(towers[family])
    assert isinstance(module, linen.Module)
    batch = _batch(family)
    expected = _nnx(towers[family], batch)
    run = _linen(module, batch)
    np.testing.assert_allclose(run(variables), expected, atol=EXACT)
    # The numbers must come from the variables that are passed.
    changed = jax.tree.map(lambda leaf: 1.1 * leaf, variables)
    assert published.relative_error(run(changed), expected) > DIFFERS


class Wrapper(linen.Module):
    """Somebody's own model around a tower."""

    tower: linen.Module

    @linen.compact
    def __call__(self, *batch: jax.Array) -> jax.Array:
        return linen.Dense(3, name="head")(_array(self.tower(*batch)))


@pytest.mark.parametrize("family", FAMILIES)
def test_tower_is_a_submodule(towers, family):
    module, variables = mrl_jax.to_linen(towers[family])
    batch = _batch(family)
    hidden = _nnx(towers[family], batch)
    kernel = np.random.default_rng(1).standard_normal((hidden.shape[-1], 3), np.float32)
    params = {
        "tower": variables["params"],
        "head": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(3)},
    }
    actual = _linen(Wrapper(tower=module), batch)({"params": params})
    expected = hidden @ kernel
    assert published.relative_error(actual, expected) <= 10 * EXACT
    assert np.abs(expected).max() > DIFFERS


def test_embed_is_reached_by_its_name(towers):
    module, variables = mrl_jax.to_linen(towers["qwen3"])
    batch = _batch("qwen3")
    actual = _linen(module, batch, nnx_method="embed")(variables)
    assert actual.shape == (2, towers["qwen3"].config.width)
    np.testing.assert_allclose(actual, _nnx(towers["qwen3"], batch, "embed"), atol=EXACT)
    cut = _linen(module, batch, nnx_method="embed", dim=8)(variables)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=-1), 1, atol=EXACT)
    assert cut.shape == (2, 8)


def test_gradients_reach_the_variables(towers):
    """Frozen in NNX, plain parameters in Linen: their owner decides what trains."""
    module, variables = mrl_jax.to_linen(towers["qwen3"])
    batch = _batch("qwen3")

    def loss(variables):
        output: Any = module.apply(variables, *batch)
        return jnp.sum(jnp.square(output.last_hidden))

    gradients = jax.jit(jax.grad(loss), compiler_options=QUICK)(variables)
    assert jax.tree.structure(gradients) == jax.tree.structure(variables)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("family", FAMILIES)
def test_variables_are_named_as_linen_names_them(towers, family):
    """So that optimisers and checkpoints made from `init` fit them."""
    module, variables = mrl_jax.to_linen(towers[family])
    made = jax.eval_shape(lambda: module.init(jax.random.key(0), *_batch(family)))
    assert jax.tree.structure(made["params"]) == jax.tree.structure(variables["params"])
    shapes = [
        [leaf.shape for leaf in jax.tree.leaves(tree["params"])] for tree in (made, variables)
    ]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == len(param_tree.flat_weights(towers[family]))


def _program(tower, batch) -> str:
    """What a tower computes inside Linen, to tell options apart that leave results alone."""
    module, variables = mrl_jax.to_linen(tower)
    return str(jax.make_jaxpr(lambda v: _array(module.apply(v, *batch)))(variables))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen3", {"dtype": jnp.bfloat16}),
        ("qwen3", {"remat": True}),
        ("qwen3", {"unroll": True}),
        ("hubert", {"padding": "reference"}),
    ],
    ids=["dtype", "remat", "unroll", "padding"],
)
def test_options_come_along(folders, towers, family, options):
    tower = LOADERS[family](folders[family], **options)
    batch = _batch(family)
    assert _program(tower, batch) != _program(towers[family], batch)
