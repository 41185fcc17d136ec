"""The dual encoder: equal to PyTorch, deaf to padding, trained in its head alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layer_states import layer_states
from published import save, torch_hubert
from tiny_fusion import DIMS, drawn_towers, tiny_batch, tiny_model
from torch_dual import TorchDual
from torch_fusion import CONVS

import mrl_jax
from converters.convert import convert
from mrl_jax.core.config import override
from mrl_jax.core.errors import MrlError
from mrl_jax.losses.config import LossConfig
from mrl_jax.losses.matryoshka import l1_cosine, matryoshka_infonce, over_separate
from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig, PoolingHead
from mrl_jax.models.hubert import HubertEncoder
from mrl_jax.models.inputs import normalize_clip, pad_clips
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.nn import param_tree
from mrl_jax.training.contrastive.config import ExperimentConfig, ModelConfig
from mrl_jax.training.contrastive.step import make_train_step
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import init_state, trained_leaves

SIZES = (800, 417)
QUICK = {"xla_backend_optimization_level": 0}


def tiny_dual(*, nested: bool = False, dims: tuple[int, ...] = DIMS) -> DualEncoder:
    speech, text, rngs = drawn_towers()
    config = DualEncoderConfig(dims=dims, nested=nested)
    return DualEncoder(speech, text, config=config, rngs=rngs)


def compiled(model: DualEncoder) -> Callable[..., np.ndarray]:
    """`embed_speech` of the model as it is at each call, compiled once a shape."""
    rebuild = param_tree.split(model).rebuild

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(trained: Any, frozen: Any, *inputs: Any) -> jax.Array:
        return rebuild(trained, frozen).embed_speech(*inputs)

    def embed(*inputs: Any) -> np.ndarray:
        parts = param_tree.split(model)
        return np.asarray(run(parts.trained, parts.frozen, *inputs))

    return embed


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> tuple[Any, HubertEncoder]:
    """A speech tower of transformers, and ours converted from it."""
    folder = tmp_path_factory.mktemp("tower")
    theirs = torch_hubert(1, **CONVS)
    convert(str(save(theirs, folder / "source")), folder / "tower", family="hubert")
    return theirs, mrl_jax.load_hubert(folder / "tower")


@pytest.mark.parametrize("nested", [False, True])
def test_clips_are_pytorchs_alone_and_padded(nested, tower):
    theirs, speech = tower
    widths = (32,) if nested else (32, 16, 8)
    reference = TorchDual(theirs, widths)
    sizes: dict[str, Any] = {"width": 32, "num_layers": 1, "num_heads": 2}
    sizes |= {"num_kv_heads": 1, "head_width": 8}
    text = Qwen3Config(vocab_size=9, mlp_width=8, rope_theta=1e4, norm_epsilon=1e-6, **sizes)
    config = DualEncoderConfig(dims=() if nested else widths, nested=nested)
    abstract = nnx.eval_shape(lambda: Qwen3Encoder(text, rngs=nnx.Rngs(0)))
    model = DualEncoder(speech, abstract, config=config, rngs=nnx.Rngs(0))
    del model.text  # Speech never goes through it.
    reference.fill(model.head)
    rng = np.random.default_rng(0)
    clips = [rng.normal(0.1, 0.5, size).astype(np.float32) for size in SIZES]
    embed, batch = compiled(model), pad_clips(clips, speech.config)
    ours = embed(*batch)
    for row, clip in zip(ours, clips, strict=True):
        expected = reference.embed(normalize_clip(clip))
        assert set(expected) == set(widths)
        blocks = np.split(row, np.cumsum(widths)[:-1])
        for width, block in zip(widths, blocks, strict=True):
            np.testing.assert_allclose(block, expected[width], atol=1e-5)
    # Not by chance: another clip, padding that is read, and another query are far away.
    assert np.abs(ours[0] - ours[1]).max() > 1e-2
    read = embed(batch[0], np.full_like(batch[1], max(SIZES)))
    np.testing.assert_allclose(read[0], ours[0], atol=1e-5)
    assert np.abs(read[1] - ours[1]).max() > 1e-2
    model.head.pool_query[...] = -model.head.pool_query[...]
    assert np.abs(ours - embed(*batch)).max() > 1e-2


@pytest.fixture
def states():
    return layer_states(300.0)


def head() -> PoolingHead:
    made = PoolingHead(3, 8, (6, 4), rngs=nnx.Rngs(0))
    made.pool_query[...] = jax.random.normal(jax.random.key(1), (24,))
    return made


@jax.jit
def pooled(values: jax.Array, mask: jax.Array) -> list[jax.Array]:
    return head()(values, mask)


def test_masked_frames_contribute_nothing(states):
    values, mask = states
    values = values / jnp.asarray([1.0, 300.0, 0.02])[:, None, None, None]
    loud = jnp.where(mask[None, :, :, None], values, jnp.float32(50))
    for ours, again, unmasked in zip(
        pooled(values, mask), pooled(loud, mask), pooled(loud, jnp.ones_like(mask)), strict=True
    ):
        np.testing.assert_allclose(ours, again, atol=1e-6)
        np.testing.assert_allclose(ours[0], unmasked[0], atol=1e-6)
        assert np.abs(ours[1] - unmasked[1]).max() > 1
    for ours, cut in zip(
        pooled(values, mask), pooled(values[:, 1:, :5], mask[1:, :5]), strict=True
    ):
        np.testing.assert_allclose(ours[1:], cut, atol=1e-5)
    gradients = jax.grad(lambda x: sum(jnp.sum(one) for one in pooled(x, mask)))(values)
    np.testing.assert_array_equal(gradients[:, 1, 5:], 0)
    assert np.abs(gradients[:, 1, :5]).min() > 0


def test_a_clip_without_a_frame_is_finite(states):
    values, _ = states
    none = jnp.zeros((2, 9), bool)
    for one in pooled(values, none):
        np.testing.assert_allclose(one, jnp.zeros_like(one), atol=1e-6)  # The bias is 0.
    gradient = jax.grad(lambda x: sum(jnp.sum(one) for one in pooled(x, none)))(values)
    assert np.isfinite(gradient).all()


def test_factors_make_layers_alike_and_fold_away(states):
    values, mask = states
    fitted, plain = head(), head()
    fitted.fit_layer_scale(values, mask)
    for layer, scale in zip(values, fitted.layer_scale[...], strict=True):
        rms = np.sqrt(np.mean(np.square(np.asarray(layer[mask]))))
        assert rms * float(scale) == pytest.approx(1, rel=1e-5)
    assert np.abs(np.asarray(fitted(values, mask)[0] - plain(values, mask)[0])).max() > 1
    folded = fitted.fold()
    assert set(folded) == {"pool_query", "projections.to_6.kernel", "projections.to_4.kernel"}
    plain.pool_query[...] = jnp.asarray(folded["pool_query"])
    for name, linear in plain.projections.items():
        linear.kernel[...] = jnp.asarray(folded[f"projections.{name}.kernel"])
    for ours, theirs in zip(fitted(values, mask), plain(values, mask), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)


def test_rows_do_not_know_each_other_and_padded_ones_do_not_matter():
    embed, batch = compiled(tiny_dual()), tiny_batch(4)
    ours = embed(batch.samples, batch.lengths)
    order = [2, 0, 3, 1]
    moved = embed(batch.samples[order], batch.lengths[order])
    np.testing.assert_allclose(ours[order], moved, atol=1e-6)
    filled = batch.samples.copy()
    filled[2] = 0
    others = [0, 1, 3]
    again = embed(filled, batch.lengths)
    np.testing.assert_allclose(ours[others], again[others], atol=1e-6)
    assert np.abs(ours[2] - again[2]).max() > 1e-3
    longer = np.pad(batch.samples, ((0, 0), (0, 200)))
    np.testing.assert_allclose(ours, embed(longer, batch.lengths), atol=1e-6)
    for start, stop in ((0, 16), (16, 24), (24, 28)):
        norms = np.linalg.norm(ours[:, start:stop], axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_the_trained_leaves():
    """Pinned: the query and a layer a dim, or one layer; nothing of the towers."""
    assert trained_leaves(param_tree.split(tiny_dual()).trained) == {
        "head.pool_query": (32,),
        "head.projections.to_16.bias": (16,),
        "head.projections.to_16.kernel": (32, 16),
        "head.projections.to_8.bias": (8,),
        "head.projections.to_8.kernel": (32, 8),
        "head.projections.to_4.bias": (4,),
        "head.projections.to_4.kernel": (32, 4),
    }
    nested = param_tree.split(tiny_dual(nested=True))
    assert trained_leaves(nested.trained) == {
        "head.pool_query": (32,),
        "head.projections.to_16.bias": (16,),
        "head.projections.to_16.kernel": (32, 16),
    }
    assert {name.split(".")[0] for name in nested.frozen} == {"head", "speech", "text"}
    np.testing.assert_array_equal(nested.trained["head"]["pool_query"], 1)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        ("separate", "matryoshka_infonce"),
        ("separate", "l1_cosine"),
        ("nested", "l1_cosine"),
        ("late fusion", "l1_cosine"),
    ],
)
def test_training_lowers_the_loss_and_leaves_the_towers(model, loss):
    made = tiny_model() if model == "late fusion" else tiny_dual(nested=model == "nested")
    parts = param_tree.split(made)
    before = {name: np.array(x) for name, x in parts.frozen.items()}
    config = LossConfig(name=loss, dims=DIMS)
    optimizer = make_optimizer(OptimConfig(learning_rate=0.02, warmup_fraction=0.0), 30)
    step = jax.jit(make_train_step(parts.rebuild, optimizer, config), compiler_options=QUICK)
    state, batch = init_state(parts.trained, optimizer), tiny_batch(8)
    losses = []
    for _ in range(8):
        state, metrics = step(state, parts.frozen, batch)
        losses.append(np.asarray(metrics["loss_per_dim"]))
    assert losses[0].shape == (len(DIMS),)
    assert (losses[-1] < losses[0] - 0.05).all(), losses
    for name, value in param_tree.flatten(parts.trained).items():
        assert (np.asarray(param_tree.flatten(state.trained)[name]) != value).any(), name
    for name, value in before.items():
        np.testing.assert_array_equal(parts.frozen[name], value)


@pytest.mark.parametrize("loss", [matryoshka_infonce, l1_cosine])
def test_separate_vectors_that_are_prefixes_have_the_nested_loss(loss):
    rng = np.random.default_rng(0)
    queries, documents = (jnp.asarray(rng.normal(size=(6, 16)), jnp.float32) for _ in "qd")
    where = jnp.asarray([True] * 5 + [False])
    bound = functools.partial(loss, where=where)
    shares = (1.0, 2.0, 3.0)

    @jax.jit
    def nested(q: jax.Array) -> jax.Array:
        return bound(q, documents, dims=DIMS, weights=shares).total

    @jax.jit
    def separate(q: jax.Array) -> jax.Array:
        wide = jnp.concatenate([q[:, :dim] for dim in DIMS], axis=1)
        return over_separate(bound, wide, documents, dims=DIMS, weights=shares).total

    for ours, theirs in zip(
        jax.value_and_grad(separate)(queries), jax.value_and_grad(nested)(queries), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # A shorter vector of its own changes its own dim, and no other.
    wide = jnp.concatenate([queries[:, :dim] for dim in DIMS], axis=1)
    per_dim = jax.jit(lambda wide: over_separate(bound, wide, documents, dims=DIMS).per_dim)
    other, same = per_dim(wide.at[:, 16:24].multiply(-1.0)), per_dim(wide)
    changed = np.abs(np.asarray(other - same)) > 1e-3
    assert changed.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="28 wide, expected 24"):
        over_separate(bound, wide, documents, dims=(16, 8))


def test_what_does_not_fit_is_refused():
    for dims in ((), (17,), (4, 4), (0,)):
        with pytest.raises(ValueError, match=r"expected (different widths|each width once|1 to)"):
            tiny_dual(dims=dims)
    message = r"model\.kind is 'clip', expected late_fusion or dual_encoder"
    with pytest.raises(MrlError, match=message):
        override(ExperimentConfig(name="x"), ["model.kind=clip"])
    with pytest.raises(MrlError, match=r"model\.nested is for dual encoders"):
        ModelConfig(nested=True)
    with pytest.raises(MrlError, match=r"model\.head_init=ctc is for late fusion"):
        ModelConfig(kind="dual_encoder", head_init="ctc")
