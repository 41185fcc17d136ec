"""Training and embedding with frozen towers in eight bits."""

import jax
import numpy as np
import pytest
import tiny_run
import tiny_soft
from tiers import mostly_slow

import mrl_jax
from mrl_jax.checkpoints.towers import load_qwen3, load_tower
from mrl_jax.core.errors import MrlError
from mrl_jax.nn import param_tree
from mrl_jax.nn.int8 import Int8Weight, dequantize, is_layer_kernel, quantize_layers
from mrl_jax.training.contrastive.config import ExperimentConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.make_world(tmp_path_factory.mktemp("int8"), examples=24)


def nbytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_the_kernels_of_layers_are_held_in_eight_bits(root):
    plain = load_qwen3(root / "towers" / "text")
    small = load_qwen3(root / "towers" / "text", int8=True)
    pairs = zip(
        param_tree.flat_weights(plain).items(), param_tree.flat_weights(small).items(), strict=True
    )
    for (path, before), (other, after) in pairs:
        assert path == other
        value = after.get_value()
        assert isinstance(value, Int8Weight) == is_layer_kernel(path)
        if isinstance(value, Int8Weight):
            assert nbytes(value) < 0.4 * before.get_value().nbytes  # Of float32; scales included.
    with pytest.raises(MrlError, match="cannot be trained"):
        load_tower(root / "towers" / "text", int8=True, trainable=True)


@pytest.mark.slow
def test_a_head_trains_nearly_as_on_whole_towers_and_resumes(root):
    plain, _ = tiny_run.four_steps(root, "plain")
    losses, _ = tiny_run.four_steps(root, "int8", "model.frozen_dtype=int8")
    np.testing.assert_allclose(losses, plain, rtol=0.02)
    assert losses != plain
    with tiny_run.sigterm_after(2):
        tiny_run.four_steps(root, "stopped", "model.frozen_dtype=int8")
    with pytest.raises(MrlError, match="frozen dtype"):
        tiny_run.four_steps(root, "stopped")
    again, _ = tiny_run.four_steps(root, "stopped", "model.frozen_dtype=int8")
    assert again == losses
    model = mrl_jax.Embedder.load(root / "int8").model  # As it was trained.
    assert isinstance(model.text.layers.mlp.up_proj.kernel.get_value(), Int8Weight)
    whole = mrl_jax.Embedder.load(root / "int8", int8=False).model
    assert not isinstance(whole.text.layers.mlp.up_proj.kernel.get_value(), Int8Weight)


@pytest.mark.parametrize("name", ["document_cache", "speech_cache"])
@pytest.mark.parametrize("first", mostly_slow(["", "int8"]))
def test_caches_of_whole_towers_and_of_eight_bits_are_apart(root, tmp_path, name, first):
    cache = f"data.{name}={tmp_path / name}"
    other = "" if first else "int8"
    tiny_run.four_steps(root, f"{name}{first}", cache, f"model.frozen_dtype={first}")
    with pytest.raises(MrlError, match="was made with another dtype"):
        tiny_run.four_steps(root, f"{name}{first} 2", cache, f"model.frozen_dtype={other}")


def test_lora_is_added_to_kernels_in_eight_bits():
    model = tiny_soft.soft_model(lora_rank=2)
    lora = model.head.lora
    assert lora is not None
    lora.q_proj_up[...] = lora.q_proj_up[...] + 1.0
    arrays = {path: leaf.get_value() for path, leaf in param_tree.flat_weights(model.text).items()}
    small = quantize_layers(arrays)
    added = lora.add_to(param_tree.fill(model.text, small))
    expected = lora.add_to(param_tree.fill(model.text, dequantize(small)))
    found, whole = (
        dequantize({path: leaf.get_value() for path, leaf in param_tree.flat_weights(x).items()})
        for x in (added, expected)
    )
    for path, array in whole.items():
        np.testing.assert_array_equal(found[path], array)


def test_vectors_are_nearly_those_of_whole_towers(root):
    tiny_run.four_steps(root, "model")
    texts, clip = ["ba ce", "di", "gu gu fo"], (tiny_run.clip_of((1, 2), 3), tiny_run.RATE)
    plain = mrl_jax.Embedder.load(root / "model")
    small = mrl_jax.Embedder.load(root / "model", int8=True)
    for before, after in (
        (plain.embed_text(texts), small.embed_text(texts)),
        (plain.embed_speech([clip]), small.embed_speech([clip])),
    ):
        cosines = np.sum(before * after, axis=1)
        assert cosines.min() > 0.995
        assert not np.array_equal(before, after)


@pytest.mark.parametrize("value", ["int4", "float8"])
def test_other_dtypes_are_refused(root, value):
    world = tiny_run.override(
        tiny_run.load_config(root / "tiny.py", ExperimentConfig), ["model.frozen_dtype=int8"]
    )
    assert world.model.frozen_dtype == "int8"
    with pytest.raises(MrlError, match=f"model.frozen_dtype is '{value}', expected int8"):
        tiny_run.override(world, [f"model.frozen_dtype={value}"])
