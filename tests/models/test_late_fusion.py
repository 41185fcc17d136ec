"""Late fusion: equal to PyTorch, deaf to padding, and trained where it should be."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from published import HUBERT_LARGE, save_oolel_embed
from tiny_fusion import tiny_model
from torch_fusion import CONVS, TorchFusion

from converters.oolel_embed import convert_oolel_embed
from mrl_jax.checkpoints.models import load_model, read_model_info
from mrl_jax.models.hubert import HubertConfig, HubertEncoder
from mrl_jax.models.inputs import pad_clips
from mrl_jax.models.late_fusion import FusionHead, LateFusion, LateFusionConfig
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree
from mrl_jax.nn.param_tree import freeze

PROMPT, END = [5, 7, 11], 99
SIZES = (800, 417)
HEAD = [
    "head.frame_downsample.bias",
    "head.frame_downsample.kernel",
    "head.frame_projection.kernel",
]


def jitted(model: TwoTowers) -> Callable[..., np.ndarray]:
    """`model.embed_speech`, compiled once a shape."""
    split = param_tree.split(model)

    # Little is computed here, and much compiled.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def embed(*arguments: Any) -> jax.Array:
        return split.rebuild(split.trained, split.frozen).embed_speech(*arguments)

    return lambda *arguments: np.asarray(embed(*arguments))


@pytest.fixture(scope="module")
def reference() -> TorchFusion:
    return TorchFusion()


@pytest.fixture(scope="module")
def loaded(reference, tmp_path_factory) -> Callable[..., Callable[..., np.ndarray]]:
    """(padding, end token) to the converted model's compiled `embed_speech`."""
    place: Path = tmp_path_factory.mktemp("fusion")
    convert_oolel_embed(str(save_oolel_embed(reference, place / "source")), place / "model")
    made: dict[Any, Callable[..., np.ndarray]] = {}

    def load(padding: str, end_token: int | None = None) -> Callable[..., np.ndarray]:
        if (padding, end_token) not in made:
            info = read_model_info(place / "model")
            fusion = dataclasses.replace(info.fusion, end_token=end_token)
            info = dataclasses.replace(info, padding=padding, fusion=fusion)
            made[padding, end_token] = jitted(load_model(place / "model", info))
        return made[padding, end_token]

    return load


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0.1, 0.5, size).astype(np.float32) for size in SIZES]


@pytest.fixture(scope="module")
def batch(clips) -> tuple[np.ndarray, np.ndarray]:
    return pad_clips(clips, HubertConfig.base())


def prompted(rows: int) -> np.ndarray:
    return np.tile(np.asarray(PROMPT, np.int32), (rows, 1))


@pytest.mark.parametrize("end_token", [None, END])
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("padding", ["masked", "reference"])
def test_one_clip_is_pytorchs(padding, prompt, end_token, loaded, reference, clips):
    # Twice, so that what is compiled here serves the padded batches as well.
    samples, lengths = pad_clips([clips[0]] * 2, HubertConfig.base())
    arguments = (prompted(2),) if prompt else ()
    ours = loaded(padding, end_token)(samples, lengths, *arguments)
    theirs = reference.embed(samples[:1], PROMPT if prompt else None, end_token)
    np.testing.assert_allclose(ours, theirs.repeat(2, 0), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_prompt_end_token_and_speech_all_matter(reference, clips):
    samples, _ = pad_clips(clips[:1], HubertConfig.base())
    plain = reference.embed(samples)
    others = [
        reference.embed(samples, PROMPT),
        reference.embed(samples, PROMPT[::-1]),
        reference.embed(samples, None, END),
        reference.embed(samples[:, ::-1].copy()),
    ]
    for other in others:
        assert np.abs(plain - other).max() > 1e-2


def test_pre_norm_towers_are_pytorchs(tmp_path, clips):
    # Their last state is read before the final norm, as transformers 5 gives it.
    reference = TorchFusion(ctc=False, **{**HUBERT_LARGE, **CONVS})
    convert_oolel_embed(str(save_oolel_embed(reference, tmp_path / "source")), tmp_path / "model")
    model = load_model(tmp_path / "model", read_model_info(tmp_path / "model"))
    samples, lengths = pad_clips(clips[:1], HubertConfig.large())
    ours = jitted(model)(samples, lengths)
    np.testing.assert_allclose(ours, reference.embed(samples), atol=1e-5)


@pytest.mark.parametrize("end_token", [None, END])
def test_reference_padding_is_pytorch_without_masks(end_token, loaded, reference, batch):
    ours = loaded("reference", end_token)(*batch, prompted(2))
    theirs = reference.embed(batch[0], PROMPT, end_token)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("end_token", [None, END])
def test_masked_padding_is_each_clip_alone(end_token, loaded, reference, clips, batch):
    ours = loaded("masked", end_token)(*batch, prompted(2))
    for row, clip in enumerate(clips):
        samples, _ = pad_clips([clip], HubertConfig.base())
        theirs = reference.embed(samples, PROMPT, end_token)
        np.testing.assert_allclose(ours[row], theirs[0], atol=1e-5)
    unmasked = loaded("reference", end_token)(*batch, prompted(2))
    np.testing.assert_allclose(ours[0], unmasked[0], atol=1e-5)  # The longest clip.
    assert np.abs(ours[1] - unmasked[1]).max() > 1e-3


def test_a_short_clip_alone_is_as_in_a_batch(loaded, clips, batch):
    samples, lengths = pad_clips(clips[1:], HubertConfig.base())
    alone = loaded("masked")(samples, lengths, prompted(1))
    together = loaded("masked")(*batch, prompted(2))
    np.testing.assert_allclose(together[1:], alone, atol=1e-5)


def published(**options: Any) -> LateFusion:
    """The published sizes, with shapes in place of weights."""
    return nnx.eval_shape(
        lambda: LateFusion(
            freeze(HubertEncoder(HubertConfig.base(), rngs=nnx.Rngs(0))),
            freeze(Qwen3Encoder(Qwen3Config.embedding_0_6b(), rngs=nnx.Rngs(0))),
            config=LateFusionConfig(**options),
            rngs=nnx.Rngs(0),
        )
    )


@pytest.fixture(scope="module")
def published_model() -> LateFusion:
    return published()


def test_the_published_head_has_eleven_and_a_half_million_parameters(published_model):
    weights = param_tree.flat_weights(published_model.head)
    assert param_tree.count(weights) == 9216 * 1024 + 2 * 1024 * 1024 + 1024 == 11_535_360


@pytest.mark.parametrize("learn_temperature", [False, True])
def test_trained_leaves_are_the_heads(published_model, learn_temperature):
    model = published(learn_temperature=True) if learn_temperature else published_model
    weights = param_tree.flat_weights(model)
    trained = sorted(path for path, leaf in weights.items() if isinstance(leaf, nnx.Param))
    assert trained == HEAD + ["log_temperature"] * learn_temperature
    frozen = {path.split(".")[0] for path, leaf in weights.items() if path not in trained}
    assert frozen == {"speech", "text"}


def tokens(head: FusionHead, frames: int) -> int:
    states = jax.ShapeDtypeStruct((12, 1, frames, 768), jnp.float32)
    return nnx.eval_shape(lambda module, x: module(x), head, states).shape[1]


def test_token_counts_at_the_published_sizes(published_model):
    config = published_model.speech.config
    assert config.frame_count(20 * 16_000) == 999
    assert tokens(published_model.head, 999) == 499
    assert published_model.min_samples == 720
    assert tokens(published_model.head, config.frame_count(720)) == 1
    assert tokens(published_model.head, config.frame_count(719)) == 0


@pytest.mark.parametrize("end_token", [-1, 31])
def test_an_end_token_outside_the_vocabulary_is_refused(end_token):
    model = nnx.eval_shape(tiny_model)
    config = LateFusionConfig(end_token=end_token)
    with pytest.raises(ValueError, match=rf"end_token is {end_token}, expected 0 to 30"):
        LateFusion(model.speech, model.text, config=config, rngs=nnx.Rngs(0))


ROWS, SHORT, LONG = 3, 240, 320


@pytest.fixture(scope="module")
def tiny() -> Callable[..., np.ndarray]:
    # Drawn by numpy, which compiles nothing.
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.normal(size=leaf.shape) * 0.3 + (len(leaf.shape) == 1)
        return jnp.asarray(noise, leaf.dtype)

    graphdef, state = nnx.split(nnx.eval_shape(tiny_model))
    return jitted(nnx.merge(graphdef, jax.tree.map(draw, state)))


def clip_batch(lengths: list[int], size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    samples = np.random.default_rng(seed).normal(size=(ROWS, LONG)).astype(np.float32)
    mask = np.arange(LONG)[None, :] < np.asarray(lengths)[:, None]
    return np.where(mask, samples, 0)[:, :size], np.asarray(lengths, np.int32)


def placed(ids: np.ndarray, counts: list[int], places: list[list[int]]) -> tuple[Any, Any]:
    """The first `counts[b]` ids of each row at the first of `places[b]`, in order."""
    prompt, mask = np.full((ROWS, 5), 9, np.int32), np.zeros((ROWS, 5), np.bool_)
    for row, (count, where) in enumerate(zip(counts, places, strict=True)):
        chosen = sorted(where[:count])
        prompt[row, chosen] = ids[row, :count]
        mask[row, chosen] = True
    return prompt, mask


lengths_of = st.lists(st.integers(60, SHORT), min_size=ROWS, max_size=ROWS)
counts_of = st.lists(st.integers(0, 5), min_size=ROWS, max_size=ROWS)
places_of = st.lists(st.permutations(range(5)), min_size=ROWS, max_size=ROWS)


@settings(deadline=None, max_examples=15)
@given(lengths_of, counts_of, places_of, st.permutations(range(ROWS)), st.integers(0, 9))
def test_padding_and_order_of_rows_do_not_matter(tiny, lengths, counts, places, order, seed):
    ids = np.random.default_rng(seed).integers(0, 30, (ROWS, 5)).astype(np.int32)
    samples, sizes = clip_batch(lengths, SHORT, seed)
    left = [list(range(5))] * ROWS
    ours = tiny(samples, sizes, *placed(ids, counts, left))
    # More padding after the speech, and the prompt's padding before, behind and between.
    samples, sizes = clip_batch(lengths, LONG, seed)
    again = tiny(samples, sizes, *placed(ids, counts, places))
    np.testing.assert_allclose(ours, again, atol=1e-5)
    rows = list(order)
    prompt, mask = placed(ids, counts, places)
    moved = tiny(samples[rows], sizes[rows], prompt[rows], mask[rows])
    np.testing.assert_allclose(ours[rows], moved, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_speech_and_prompt_do_matter(tiny):
    ids = np.random.default_rng(0).integers(0, 9, (ROWS, 5)).astype(np.int32)
    samples, sizes = clip_batch([SHORT] * ROWS, SHORT, 0)
    left = [list(range(5))] * ROWS
    ours = tiny(samples, sizes, *placed(ids, [3] * ROWS, left))
    for other in (
        tiny(samples, sizes - 40, *placed(ids, [3] * ROWS, left)),
        tiny(samples, sizes, *placed(ids, [2] * ROWS, left)),
        tiny(samples, sizes, *placed(ids[:, ::-1], [3] * ROWS, left)),
        tiny(samples[[1, 2, 0]], sizes, *placed(ids, [3] * ROWS, left)),
    ):
        assert (np.abs(ours - other).max(axis=1) > 1e-4).all()


def test_no_prompt_is_a_masked_one(tiny):
    samples, sizes = clip_batch([SHORT] * ROWS, SHORT, 1)
    masked = tiny(samples, sizes, np.full((ROWS, 5), 9, np.int32), np.zeros((ROWS, 5), np.bool_))
    np.testing.assert_allclose(tiny(samples, sizes), masked, atol=1e-5)
