"""Encoders of HuBERT's kin against transformers: every layer, padded and alone."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import speech_families
from flax import nnx
from published import relative_error
from tiers import mostly_slow
from tolerances import DIFFERS, QUICK, TOLERANCE

import mrl_jax
from converters.convert import convert
from mrl_jax.models.wavlm import WavLMConfig, WavLMEncoder, abstract_wavlm, distance_buckets

pytestmark = [
    # What WavLM of transformers makes torch say of its own masks.
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
]
LENGTHS = (2400, 1111, 4000)
LARGE = (
    "wav2vec2-large",
    "mms-1b-all",
    "unispeech-sat-large",
    "wavlm-large",
)
"""Whose feature norm does not read padding, so that transformers runs them on padded batches."""
WAVLM = WavLMConfig(width=32, num_layers=1, num_heads=2, mlp_width=8)
ENCODERS = (
    "wav2vec2-base",
    "unispeech-sat-base",
    "wavlm-base",
    "mhubert-147",
    "hubert batch norm, large",
    *LARGE,
)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """(the tower's folder, transformers' encoder) by name, made when first asked for."""

    @functools.cache
    def make(name: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("family")
        model = speech_families.make_checkpoint(name, folder / "source", seed=3)
        convert(str(folder / "source"), folder / "tower", family="speech")
        return folder / "tower", model.base_model

    return make


def _outputs(graphdef: Any, state: Any, samples: Any, lengths: Any) -> dict[str, jax.Array]:
    output = nnx.merge(graphdef, state)(samples, lengths)
    states = jnp.concatenate([output.hidden_states, output.last_hidden[None]])
    return {"states": states, "mask": output.frame_mask}


_FORWARD = jax.jit(_outputs, static_argnums=0, compiler_options=QUICK)


def forward(encoder: Any, samples: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """The first layer's input, every layer's output and the encoder's; the mask of frames."""
    actual = _FORWARD(*nnx.split(encoder), jnp.asarray(samples), jnp.asarray(lengths))
    return {name: np.asarray(array) for name, array in actual.items()}


def torch_forward(model: Any, samples: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The same states of transformers' encoder, as hooks on its layers see them."""
    torch = pytest.importorskip("torch")
    states: list[Any] = []
    layers = model.encoder.layers

    def keep_input(_module: Any, args: Any, kwargs: Any) -> None:
        states.append((args[0] if args else kwargs["hidden_states"]).clone())

    def keep_output(_module: Any, _args: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
    hooks += [layer.register_forward_hook(keep_output) for layer in layers]
    valid = None if mask is None else torch.from_numpy(mask).long()
    with torch.no_grad():
        last = model(torch.from_numpy(samples), attention_mask=valid).last_hidden_state
    for hook in hooks:
        hook.remove()
    return np.stack([state.numpy() for state in (*states, last)])


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [0.1 * rng.standard_normal(n, np.float32) + np.float32(0.05) for n in LENGTHS]


def worst(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest relative error of a state."""
    assert len(ours) == len(theirs) == 5  # Input, three layers, output.
    return max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_layer_of_a_padded_batch_is_transformers_clip_by_clip(tower, name):
    folder, theirs = tower(name)
    encoder = mrl_jax.load_speech_tower(folder)
    assert isinstance(encoder, WavLMEncoder) == name.startswith("wavlm")
    samples, lengths = mrl_jax.pad_clips(clips(), encoder.config)
    ours = forward(encoder, samples, lengths)
    for row, length in enumerate(LENGTHS):
        alone = torch_forward(theirs, samples[row : row + 1, :length])[:, 0]
        valid = ours["mask"][row]
        assert worst(ours["states"][:, row, valid], alone) <= TOLERANCE
        assert not ours["states"][:, row, ~valid].any()
        # Another clip's states are far off.
        others = ours["states"][:, row - 1, : valid.sum()]
        assert worst(others, alone[:, : others.shape[1]]) > DIFFERS


@pytest.mark.parametrize("name", LARGE)
def test_every_layer_is_transformers_on_a_padded_batch(tower, name):
    folder, theirs = tower(name)
    encoder = mrl_jax.load_speech_tower(folder)
    samples, lengths = mrl_jax.pad_clips(clips(), encoder.config)
    ours = forward(encoder, samples, lengths)
    mask = np.arange(samples.shape[1])[None] < lengths[:, None]
    states, valid = torch_forward(theirs, samples, mask), ours["mask"]
    assert worst(ours["states"][:, valid], states[:, valid]) <= TOLERANCE
    # Without the mask the padded clip is another.
    unmasked = torch_forward(theirs, samples)
    assert worst(ours["states"][:, 1, valid[1]], unmasked[:, 1, valid[1]]) > DIFFERS


@pytest.mark.parametrize("name", ENCODERS)
def test_reference_padding_is_transformers_without_a_mask(tower, name):
    folder, theirs = tower(name)
    encoder = mrl_jax.load_speech_tower(folder, padding="reference")
    samples, lengths = mrl_jax.pad_clips(clips(), encoder.config)
    ours = forward(encoder, samples, lengths)
    assert worst(ours["states"], torch_forward(theirs, samples)) <= TOLERANCE


@pytest.mark.parametrize(
    "name", mostly_slow(["wavlm-base", "mms-1b-all", "wavlm-large", "mhubert-147"], quick=2)
)
def test_padding_never_matters(tower, name):
    encoder = mrl_jax.load_speech_tower(tower(name)[0])
    batch = forward(encoder, *mrl_jax.pad_clips(clips(), encoder.config, size=6400))
    for row in range(len(LENGTHS)):
        alone = forward(encoder, *mrl_jax.pad_clips(clips()[row : row + 1], encoder.config))
        padded = batch["states"][:, row, batch["mask"][row]]
        assert worst(padded, alone["states"][:, 0]) <= TOLERANCE


def test_a_batch_norm_that_is_left_out_is_far_off(tower):
    """The case that must differ: without zeros at padded places, or without the norm at all."""
    encoder = mrl_jax.load_hubert(tower("mhubert-147")[0])
    samples, lengths = mrl_jax.pad_clips(clips(), encoder.config)
    expected = forward(encoder, samples, lengths)["states"]
    encoder.position_norm = None
    assert relative_error(forward(encoder, samples, lengths)["states"], expected) > DIFFERS


def test_buckets_are_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for buckets, distance, frames in ((320, 800, 1500), (8, 6, 9), (12, 50, 70), (32, 128, 200)):
        sizes = {"position_buckets": buckets, "position_distance": distance}
        config = dataclasses.replace(WAVLM, **sizes)
        theirs = transformers.models.wavlm.modeling_wavlm.WavLMAttention(
            8, 2, num_buckets=buckets, max_distance=distance
        )
        offsets = torch.arange(-(frames - 1), frames)
        expected = theirs._relative_positions_bucket(offsets).numpy()
        np.testing.assert_array_equal(distance_buckets(config, frames), expected)
        assert len(set(expected)) > buckets // 2


def test_every_field_of_wavlm_is_read():
    """Buckets are rows of the bias, and a distance moves frames from bucket to bucket."""
    farther, fewer = (
        dataclasses.replace(WAVLM, **{f"position_{name}": value})
        for name, value in (("distance", 8000), ("buckets", 64))
    )
    assert (distance_buckets(WAVLM, 200) != distance_buckets(farther, 200)).any()
    shapes = [abstract_wavlm(c).position_bias.embedding.shape for c in (WAVLM, fewer)]
    assert shapes == [(320, 2), (64, 2)]
    for changes in ({"position_buckets": 2}, {"position_distance": 80}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            dataclasses.replace(WAVLM, **changes)
