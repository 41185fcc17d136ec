"""Weights as flat mappings: paths, counts, digests, and what training may touch."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.models.hubert import HubertConfig, abstract_hubert
from mrl_jax.models.qwen3 import Qwen3Config, abstract_qwen3
from mrl_jax.nn import param_tree


class Small(nnx.Module):
    """Two linear layers, one of them in a list."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(2, 3, rngs=rngs)
        self.rest = nnx.List([nnx.Linear(3, 1, use_bias=False, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.rest[0](jnp.tanh(self.first(x)))


@pytest.fixture
def small() -> Small:
    return Small(nnx.Rngs(0))


PATHS = {"first.kernel", "first.bias", "rest.0.kernel"}


def test_flat_weights_are_dotted_paths(small):
    flat = param_tree.flat_weights(small)
    assert flat.keys() == PATHS
    np.testing.assert_array_equal(flat["first.kernel"][...], small.first.kernel[...])
    np.testing.assert_array_equal(flat["rest.0.kernel"][...], small.rest[0].kernel[...])
    assert param_tree.count(flat) == 2 * 3 + 3 + 3


def test_flat_weights_of_a_frozen_module_are_the_same(small):
    before = {path: np.asarray(leaf[...]) for path, leaf in param_tree.flat_weights(small).items()}
    after = param_tree.flat_weights(param_tree.freeze(small))
    assert before.keys() == after.keys()
    for path, array in before.items():
        np.testing.assert_array_equal(after[path][...], array)
        assert type(after[path]) is param_tree.Frozen


# --- Counts of the published models -----------------------------------------------------

# HuBERT's published count has one vector of 768 that stands for masked frames in
# pre-training; a frozen tower masks nothing, so the converter keeps it beside the module.
COUNTS = {
    "HuBERT-base": (HubertConfig.base(), 94_371_712 - 768),
    "Qwen3-Embedding-0.6B": (Qwen3Config.embedding_0_6b(), 595_776_512),
}
HUBERT_LARGE = {
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
QWEN3 = {"num_key_value_heads": 8, "head_dim": 128}
# What the presets are in transformers' terms.
PUBLISHED = {
    "HuBERT-base": (HubertConfig.base(), {}),
    "HuBERT-large": (
        HubertConfig.large(),
        {
            **HUBERT_LARGE,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
    ),
    "HuBERT-xlarge": (
        HubertConfig.xlarge(),
        {
            **HUBERT_LARGE,
            "hidden_size": 1280,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "intermediate_size": 5120,
        },
    ),
    "Qwen3-Embedding-0.6B": (
        Qwen3Config.embedding_0_6b(),
        {
            **QWEN3,
            "vocab_size": 151669,
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "intermediate_size": 3072,
        },
    ),
    "Qwen3-Embedding-4B": (
        Qwen3Config.embedding_4b(),
        {
            **QWEN3,
            "vocab_size": 151665,
            "hidden_size": 2560,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "intermediate_size": 9728,
        },
    ),
    "Qwen3-Embedding-8B": (
        Qwen3Config.embedding_8b(),
        {
            **QWEN3,
            "vocab_size": 151665,
            "hidden_size": 4096,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "intermediate_size": 12288,
        },
    ),
}


def _count(config: HubertConfig | Qwen3Config) -> int:
    speech = isinstance(config, HubertConfig)
    module = abstract_hubert(config) if speech else abstract_qwen3(config)
    return param_tree.count(param_tree.flat_weights(module))


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_the_known_number_of_parameters(name):
    config, expected = COUNTS[name]
    assert _count(config) == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_as_many_parameters_as_transformers(name):
    """On torch's meta device, which holds shapes alone."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config, published = PUBLISHED[name]
    with torch.device("meta"):
        if isinstance(config, HubertConfig):
            model = transformers.HubertModel(transformers.HubertConfig(**published))
        else:
            model = transformers.Qwen3Model(transformers.Qwen3Config(**published))
    expected = {k: p.numel() for k, p in model.named_parameters() if k != "masked_spec_embed"}
    assert _count(config) == sum(expected.values())


# --- Digests ----------------------------------------------------------------------------

WEIGHTS = {
    "a.kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones((4,), ml_dtypes.bfloat16),
}


def _with(**changes) -> dict[str, np.ndarray]:
    return {**WEIGHTS, **changes}


def test_digest_is_of_the_contents():
    expected = param_tree.digest(WEIGHTS)
    assert len(expected) == 64
    assert param_tree.digest(dict(reversed(WEIGHTS.items()))) == expected
    assert param_tree.digest({k: jnp.asarray(v) for k, v in WEIGHTS.items()}) == expected
    turned = np.asfortranarray(WEIGHTS["a.kernel"])
    assert param_tree.digest(_with(**{"a.kernel": turned})) == expected


def _flip_one_bit(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.view(np.uint8).reshape(-1)[0] ^= 1
    return changed


@pytest.mark.parametrize(
    "changed",
    [
        _with(**{"a.kernel": _flip_one_bit(WEIGHTS["a.kernel"])}),
        _with(b=_flip_one_bit(WEIGHTS["b"])),
        _with(**{"a.kernel": WEIGHTS["a.kernel"].view(np.int32)}),
        _with(b=WEIGHTS["b"].astype(np.float32)),
        _with(**{"a.kernel": WEIGHTS["a.kernel"].reshape(3, 2)}),
        {"a.kernal": WEIGHTS["a.kernel"], "b": WEIGHTS["b"]},
        {"a.kernel": WEIGHTS["a.kernel"]},
        {"a.kernel": WEIGHTS["a.kernel"], "b": WEIGHTS["b"], "c": WEIGHTS["b"]},
        {},
    ],
    ids=["bit", "bf16 bit", "same bytes", "dtype", "shape", "path", "fewer", "more", "none"],
)
def test_digest_changes_with_anything(changed):
    assert param_tree.digest(changed) != param_tree.digest(WEIGHTS)


def test_digest_tells_negative_zero_from_zero():
    # Equal as numbers, and not the same weights.
    zero, negative = np.zeros(1, np.float32), -np.zeros(1, np.float32)
    assert zero == negative
    assert param_tree.digest({"a": zero}) != param_tree.digest({"a": negative})


# --- Freezing ---------------------------------------------------------------------------


def _gradient_paths(module: Small) -> set[str]:
    gradients = nnx.grad(lambda module: jnp.sum(module(jnp.ones((1, 2)))))(module)
    return {".".join(map(str, path)) for path, _ in nnx.to_flat_state(gradients)}


def test_nnx_grad_sees_no_frozen_leaf(small):
    assert _gradient_paths(small) == PATHS
    param_tree.freeze(small.first)
    assert _gradient_paths(small) == {"rest.0.kernel"}
    assert param_tree.freeze(small) is small
    assert _gradient_paths(small) == set()


def test_freezing_leaves_the_output(small):
    x = jnp.asarray([[0.3, -2.0]])
    before = small(x)
    np.testing.assert_array_equal(param_tree.freeze(small)(x), before)
    small.first.kernel[...] = 2 * small.first.kernel[...]
    assert np.abs(np.asarray(small(x) - before)).max() > 1e-3


def test_freezing_turns_every_parameter_into_a_frozen_weight(small):
    assert nnx.state(param_tree.freeze(small), nnx.Param) == nnx.State({})
    assert len(nnx.to_flat_state(nnx.state(small, param_tree.Frozen))) == len(PATHS)


def test_freeze_leaves_other_variables():
    """Only weights: a dropout's random state or a batch statistic is no parameter."""
    norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    param_tree.freeze(norm)
    assert type(norm.scale) is param_tree.Frozen
    assert type(norm.mean) is nnx.BatchStat


# --- Nested and flat --------------------------------------------------------------------


def test_nest_splits_at_dots():
    assert param_tree.nest({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert param_tree.flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {
        "a.b": 1,
        "a.c.d": 2,
        "e": 3,
    }


names = st.text("abc01_", min_size=1, max_size=3)
trees = st.recursive(
    st.dictionaries(names, st.integers(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, inner | st.integers(), min_size=1, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(trees)
def test_nest_is_the_inverse_of_flatten(tree):
    flat = param_tree.flatten(tree)
    assert param_tree.nest(flat) == tree
    assert param_tree.flatten(param_tree.nest(flat)) == flat
    assert all(not isinstance(value, dict) for value in flat.values())
