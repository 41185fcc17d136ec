"""Steps of packed texts: vectors, loss and gradients are those of padded ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiers import mostly_slow

from mrl_jax.data.batches.packing import PackedPairSource
from mrl_jax.data.batches.text import TextBatchConfig, TextPairSource
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.models.text_pooling import DenseConfig
from mrl_jax.nn import param_tree
from mrl_jax.training.devices import Devices
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import init_state
from mrl_jax.training.text_tower.step import embedder, make_text_step, tower_rebuilder

SIZES = Qwen3Config(
    vocab_size=24,
    width=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    mlp_width=32,
    rope_theta=1e4,
    norm_epsilon=1e-6,
)
KINDS = {
    "last": SIZES,
    "mean": dataclasses.replace(
        SIZES,
        causal=False,
        pooling="mean",
        dense=(DenseConfig(width=8, bias=True, activation="tanh"),),
    ),
    "cls": dataclasses.replace(SIZES, causal=False, pooling="cls"),
}
BATCH = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, text in new_tokenizer(["abcdefgh"], units="characters").items():
        (folder / name).write_text(text)
    rng = np.random.default_rng(0)

    def letters():
        return "".join(rng.choice(list("abcdefgh"), rng.integers(1, 60)))

    # Two of each query: that the ids stand beside their texts makes a difference.
    pairs = [
        TextPair(query=letters(), document=letters(), query_id=str(n // 2)) for n in range(BATCH)
    ]
    config = TextBatchConfig(batch_size=BATCH, max_tokens=64)
    return TextPairSource(pairs, TextTokenizer(folder, max_tokens=64), config, seed=0)


@functools.cache
def parts_of(kind):
    tower = Qwen3Encoder(KINDS[kind], rngs=nnx.Rngs(0))
    # Weights of a size that makes attention matter.
    trained = jax.tree.map(lambda x: 5 * x if x.ndim > 2 else x, param_tree.split(tower).trained)
    return tower_rebuilder(KINDS[kind], jnp.float32, remat=False), trained


@pytest.mark.parametrize("kind", mostly_slow(KINDS))
def test_vectors_are_those_of_padded_rows(source, kind):
    rebuild, trained = parts_of(kind)
    embed = jax.jit(embedder(rebuild))
    packed = PackedPairSource(source, (1, 1))(0)
    assert packed.tokens.shape[1] < BATCH  # Rows are shared.
    ours, theirs = embed(trained, packed), embed(trained, source(0))
    for side, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(side, expected, atol=1e-5)
    # As one text, all in a row see one another.
    joined = dataclasses.replace(packed, texts=np.minimum(packed.texts, 0))
    differences = np.abs(np.concatenate(embed(trained, joined)) - np.concatenate(theirs))
    assert differences.max() > 1e-2


@functools.cache
def _step(source, parallel, count, parts, split):
    """The trained weights and metrics of one step; packed where there is a split."""
    rebuild, trained = parts_of("last")
    place = Devices(parallel, jax.devices()[:count])
    optimizer = make_optimizer(OptimConfig(name="adamw", warmup_fraction=0.0), 10)
    step = make_text_step(
        rebuild,
        optimizer,
        LossConfig(dims=(16, 8), symmetric=True),
        accumulation_steps=parts,
        axis_name=place.axis_name,
    )
    batch = source(0) if split is None else PackedPairSource(source, split)(0)
    state = place.replicate(init_state(trained, optimizer))
    _, metrics = place.compile(step)(state, {}, place.put_batch(batch))
    return {name: np.asarray(value) for name, value in metrics.items()}


CASES = [("pmap", 2, 2), ("pmap", 1, 1), ("mesh", 2, 2), ("mesh", 2, 1)]


@pytest.mark.parametrize(("parallel", "count", "parts"), mostly_slow(CASES))
def test_a_packed_step_is_a_padded_one(source, parallel, count, parts):
    padded = _step(source, "pmap", 1, 1, None)
    packed = _step(source, parallel, count, parts, (count, parts))
    for name in ("loss", "loss_per_dim", "gradient_norm"):
        np.testing.assert_allclose(packed[name], padded[name], rtol=1e-5)


@pytest.mark.slow
def test_groups_of_another_split_are_another_loss(source):
    padded = _step(source, "pmap", 1, 1, None)
    wrong = _step(source, "pmap", 2, 2, (1, 4))
    assert abs(wrong["loss"] - padded["loss"]) > 1e-3


@pytest.mark.parametrize("kind", mostly_slow(KINDS))
def test_gradients_are_those_of_padded_rows(source, kind):
    rebuild, trained = parts_of(kind)
    embed = embedder(rebuild)
    weigh = np.random.default_rng(1).normal(size=(2, BATCH, KINDS[kind].embed_width))
    weigh = jnp.asarray(weigh, jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(weights, batch):
        return jnp.sum(jnp.stack(embed(weights, batch)) * weigh)

    ours = param_tree.flatten(gradient(trained, PackedPairSource(source, (1, 1))(0)))
    theirs = param_tree.flatten(gradient(trained, source(0)))
    for path, leaf in ours.items():
        scale = float(jnp.linalg.norm(theirs[path]))
        assert scale > 1e-4, path
        assert float(jnp.linalg.norm(leaf - theirs[path])) < 1e-5 * scale, path
