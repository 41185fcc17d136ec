"""HuBERT against transformers, through the real converter, from single convolutions to batches.

Parity needs torch and transformers. What is ours alone (padding, gradients, precision,
config fields) is tested on weights drawn by `converters.random_init`, without torch.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import tiny_towers
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import BFLOAT16_COSINE, DIFFERS, EXACT, QUICK, TOLERANCE

import mrl_jax
from converters.convert import convert
from converters.random_init import random_init
from mrl_jax.core.errors import MrlError
from mrl_jax.models.hubert import HubertConfig, HubertEncoder, abstract_hubert
from mrl_jax.models.inputs import normalize_clip
from mrl_jax.nn import param_tree
from mrl_jax.nn.activations import gelu
from mrl_jax.nn.masking import length_mask

LENGTHS = (2400, 1111, 400)  # Every batch here is (3, 2400): one shape, one compile.
SEED = 3
States = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tower:
    """A converted tower beside the published model that it came from."""

    ours: HubertEncoder
    folder: Path
    theirs: Any


def _outputs(graphdef, state, samples, lengths):
    output = nnx.merge(graphdef, state)(samples, lengths)
    return {"states": output.hidden_states, "last": output.last_hidden, "mask": output.frame_mask}


_FORWARD = jax.jit(_outputs, static_argnums=0)
_QUICK_FORWARD = jax.jit(_outputs, static_argnums=0, compiler_options=QUICK)


def forward(tower, samples, lengths, *, quick: bool = True) -> States:
    """All hidden states, the output and the mask; towers of one config share a compile."""
    run = _QUICK_FORWARD if quick else _FORWARD
    actual = run(*nnx.split(tower), jnp.asarray(samples), jnp.asarray(lengths))
    return {name: np.asarray(array) for name, array in actual.items()}


def clips_of(lengths, seed: int = SEED) -> list[np.ndarray]:
    """Noise that is neither centred nor of unit size, so that its normalisation matters."""
    rng = np.random.default_rng(seed)
    return [0.1 * rng.standard_normal(n, np.float32) + np.float32(0.05) for n in lengths]


# --- Parity with transformers -----------------------------------------------------------

LARGE = {key: published.HUBERT_LARGE[key] for key in published.HUBERT_LARGE.keys() - {"conv_dim"}}


def _old_weight_norm(folder: Path) -> None:
    """Spell the weight norm as torch did before its parametrisations."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    prefix = "encoder.pos_conv_embed.conv."
    tensors = load_file(path)
    tensors[prefix + "weight_g"] = tensors.pop(prefix + "parametrizations.weight.original0")
    tensors[prefix + "weight_v"] = tensors.pop(prefix + "parametrizations.weight.original1")
    save_file(tensors, path, metadata={"format": "pt"})


# name: (changes of the published config, edit of the folder)
VARIANTS: dict[str, tuple[dict[str, Any], Any]] = {
    "base": ({}, None),
    "large": (LARGE, None),
    "base, conv bias": ({"conv_bias": True}, None),
    "base, pre-norm": ({"do_stable_layer_norm": True}, None),
    "large, no conv bias": ({**LARGE, "conv_bias": False}, None),
    "large, post-norm": ({**LARGE, "do_stable_layer_norm": False}, None),
    "odd position kernel": ({"num_conv_pos_embeddings": 15}, None),
    "no projection norm": ({"feat_proj_layer_norm": False}, None),
    # Feature norms keep torch's own epsilon, whatever the config says of the others.
    "coarse epsilon": ({"layer_norm_eps": 1e-1}, None),
    "large, coarse epsilon": ({**LARGE, "layer_norm_eps": 1e-1}, None),
    "old weight-norm names": ({}, _old_weight_norm),
    "recogniser": ({"ctc": True}, None),
    "no masked_spec_embed": ({"mask_time_prob": 0.0}, None),
}
FAMILIES = ("base", "large")


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """Makes a variant of `VARIANTS` once, on demand."""

    @functools.cache
    def make(name: str) -> Tower:
        changes, edit = VARIANTS[name]
        folder = tmp_path_factory.mktemp("hubert")
        theirs = published.torch_hubert(SEED, **changes)
        ours = published.converted(theirs, folder, edit)
        # A recogniser holds the encoder as `hubert`.
        return Tower(ours, folder, getattr(theirs, "hubert", theirs))

    return make


def torch_forward(model, samples, attention_mask=None) -> States:
    """transformers' first layer input, each layer's output as a hook sees it, and its output."""
    torch = pytest.importorskip("torch")

    states = []

    def keep_input(_module, args, kwargs):
        states.append(args[0] if args else kwargs["hidden_states"])

    def keep_output(_module, _inputs, output):
        states.append(output[0] if isinstance(output, tuple) else output)

    layers = model.encoder.layers
    hooks = [layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
    hooks += [layer.register_forward_hook(keep_output) for layer in layers]
    mask = None if attention_mask is None else torch.from_numpy(attention_mask).long()
    try:
        with torch.no_grad():
            last = model(torch.from_numpy(samples), attention_mask=mask).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return {"states": np.stack([s.numpy() for s in states]), "last": last.numpy()}


def assert_parity(ours: States, theirs: States, row, frames) -> None:
    """Every state and the output, over the frames that count."""
    assert len(ours["states"]) == len(theirs["states"]) == published.HUBERT["num_hidden_layers"] + 1
    their_row = row if theirs["last"].shape[0] > 1 else 0
    for state, their_state in zip(ours["states"], theirs["states"], strict=True):
        error = published.relative_error(state[row, frames], their_state[their_row, frames])
        assert error <= TOLERANCE
    error = published.relative_error(ours["last"][row, frames], theirs["last"][their_row, frames])
    assert error <= TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_of_a_padded_batch_is_transformers_clip_by_clip(variant, name):
    tower = variant(name)
    samples, lengths = mrl_jax.pad_clips(clips_of(LENGTHS), tower.ours.config)
    ours = forward(tower.ours, samples, lengths, quick=name not in FAMILIES)
    for row, length in enumerate(lengths):
        theirs = torch_forward(tower.theirs, samples[row : row + 1, :length])
        frames = tower.ours.config.frame_count(int(length))
        assert theirs["last"].shape[1] == frames
        assert_parity(ours, theirs, row, slice(frames))


@pytest.mark.parametrize("name", ["large", "large, post-norm", "large, no conv bias"])
def test_layer_norm_family_is_transformers_padded_batch(variant, name):
    """With an attention mask, as the published large models are run."""
    tower = variant(name)
    samples, lengths = mrl_jax.pad_clips(clips_of(LENGTHS), tower.ours.config)
    attention_mask = np.arange(samples.shape[1])[None] < lengths[:, None]
    ours = forward(tower.ours, samples, lengths)
    theirs = torch_forward(tower.theirs, samples, attention_mask)
    for row, frames in enumerate(ours["mask"].sum(axis=1)):
        assert_parity(ours, theirs, row, slice(frames))


def test_group_norm_family_differs_from_transformers_padded_batch(variant):
    """Why "masked" is more than an attention mask: group norm statistics read the padding."""
    tower = variant("base")
    samples, lengths = mrl_jax.pad_clips(clips_of(LENGTHS), tower.ours.config)
    attention_mask = np.arange(samples.shape[1])[None] < lengths[:, None]
    ours = forward(tower.ours, samples, lengths)
    theirs = torch_forward(tower.theirs, samples, attention_mask)
    assert_parity(ours, theirs, 0, slice(None))
    for row in (1, 2):
        frames = slice(ours["mask"][row].sum())
        error = published.relative_error(ours["last"][row, frames], theirs["last"][row, frames])
        assert error > DIFFERS


@pytest.mark.parametrize("name", FAMILIES)
def test_reference_padding_is_transformers_without_a_mask(variant, name):
    """Padding read as speech, in all frames of all clips: how the published head was trained."""
    tower = variant(name)
    reference = mrl_jax.load_hubert(tower.folder / "tower", padding="reference")
    samples, lengths = mrl_jax.pad_clips(clips_of(LENGTHS), reference.config)
    ours = forward(reference, samples, lengths)
    theirs = torch_forward(tower.theirs, samples)
    for row in range(len(LENGTHS)):
        assert_parity(ours, theirs, row, slice(None))
    assert ours["mask"].all()

    masked = forward(tower.ours, samples, lengths)
    frames = slice(masked["mask"][1].sum())
    error = published.relative_error(masked["last"][1, frames], theirs["last"][1, frames])
    assert error > DIFFERS


def test_other_weights_are_far_off(variant):
    # What the parity tests would see if the checkpoint were not read.
    tower = variant("base")
    samples, lengths = mrl_jax.pad_clips(clips_of(LENGTHS), tower.ours.config)
    stranger = torch_forward(published.torch_hubert(SEED + 1), samples[:1])
    ours = forward(tower.ours, samples, lengths)
    for state, their_state in zip(ours["states"], stranger["states"], strict=True):
        assert published.relative_error(state[:1], their_state) > DIFFERS


@pytest.mark.parametrize("name", ["base, pre-norm", "coarse epsilon"])
def test_other_config_is_another_model(variant, name):
    """Same weights, another flag in config.json: the output must follow."""
    tower, other = variant("base"), variant(name)
    ours, others = (param_tree.flat_weights(t.ours) for t in (tower, other))
    assert all(np.array_equal(ours[path][...], others[path][...]) for path in ours)
    samples, lengths = mrl_jax.pad_clips(clips_of(LENGTHS), tower.ours.config)
    last = forward(tower.ours, samples, lengths)["last"]
    other_last = forward(other.ours, samples, lengths)["last"]
    assert published.relative_error(other_last, last) > DIFFERS


@pytest.mark.parametrize("name", ["large", "large, post-norm", "base", "base, pre-norm"])
def test_hidden_states_are_the_layers_own(variant, name):
    """Y + 1 states; pre-norm models end before their final norm, post-norm ones after it."""
    tower = variant(name).ours
    samples, lengths = mrl_jax.pad_clips(clips_of(LENGTHS), tower.config)
    actual = forward(tower, samples, lengths)
    assert actual["states"].shape == (tower.config.num_layers + 1, *actual["last"].shape)
    states, last, mask = actual["states"][-1], actual["last"], actual["mask"]
    if tower.config.pre_norm:
        normed = np.asarray(tower.encoder_norm(jnp.asarray(states)))
        np.testing.assert_allclose(normed[mask], last[mask], atol=TOLERANCE)
        assert published.relative_error(states, last) > DIFFERS
    else:
        np.testing.assert_array_equal(states, last)
        assert published.relative_error(actual["states"][-2], last) > DIFFERS


# The ladder: transformers' submodule, and ours fed the same input.
def _convolution(index: int):
    def run(tower, _layers, x):  # torch's channels stand before its frames.
        return jnp.swapaxes(tower.feature_encoder.blocks[index](jnp.swapaxes(x, 1, 2), None), 1, 2)

    return run


def _projection(tower, _layers, x):
    return tower.projection(tower.projection_norm(x))


def _position(tower, _layers, x):
    return gelu(tower.position_conv(x))


RUNGS = {
    **{f"feature_extractor.conv_layers.{i}": _convolution(i) for i in range(7)},
    "feature_projection": _projection,
    "encoder.pos_conv_embed": _position,
    "encoder.layer_norm": lambda tower, _layers, x: tower.encoder_norm(x),
}
for _index in range(published.HUBERT["num_hidden_layers"]):
    for _name, _pick in {
        ".attention.q_proj": lambda layer, x: layer.attention.q_proj(x),
        ".attention.k_proj": lambda layer, x: layer.attention.k_proj(x),
        ".attention.v_proj": lambda layer, x: layer.attention.v_proj(x),
        ".attention.out_proj": lambda layer, x: layer.attention.out_proj(x),
        ".attention": lambda layer, x: layer.attention(x, None),
        ".layer_norm": lambda layer, x: layer.attention_norm(x),
        ".feed_forward": lambda layer, x: layer.feed_forward(x),
        ".final_layer_norm": lambda layer, x: layer.feed_forward_norm(x),
        "": lambda layer, x: layer(x, None),
    }.items():
        RUNGS[f"encoder.layers.{_index}{_name}"] = functools.partial(
            lambda pick, index, _tower, layers, x: pick(layers[index], x), _pick, _index
        )


@pytest.fixture(scope="module", params=FAMILIES)
def climbed(variant, request) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Output of every rung, ours and transformers', both fed what transformers fed its own."""
    torch = pytest.importorskip("torch")

    tower = variant(request.param)
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def record(name):
        def hook(_module, args, kwargs, output):
            given = args[0] if args else kwargs["hidden_states"]
            output = output[0] if isinstance(output, tuple) else output
            seen[name] = given.detach().numpy().copy(), output.detach().numpy().copy()

        return hook

    hooks = [
        module.register_forward_hook(record(name), with_kwargs=True)
        for name, module in tower.theirs.named_modules()
        if name in RUNGS
    ]
    samples, _ = mrl_jax.pad_clips(clips_of((2000, 2000)), tower.ours.config)
    with torch.no_grad():
        tower.theirs(torch.from_numpy(samples))
    for hook in hooks:
        hook.remove()
    graphdef, state = nnx.split(tower.ours)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def climb(state, inputs):
        encoder = nnx.merge(graphdef, state)
        layerdef, layer_state = nnx.split(encoder.layers)
        layers = [
            nnx.merge(layerdef, jax.tree.map(lambda leaf, i=index: leaf[i], layer_state))
            for index in range(encoder.config.num_layers)
        ]
        return {name: run(encoder, layers, inputs[name]) for name, run in RUNGS.items()}

    ours = climb(state, {name: jnp.asarray(given) for name, (given, _) in seen.items()})
    assert ours.keys() == seen.keys()
    return {name: (np.asarray(ours[name]), expected) for name, (_, expected) in seen.items()}


@pytest.mark.parametrize("name", RUNGS)
def test_ladder(climbed, name):
    actual, expected = climbed[name]
    assert published.relative_error(actual, expected) <= TOLERANCE


def test_rungs_of_other_layers_differ(climbed):
    # A rung that read another layer's weights must fail.
    for name in RUNGS:
        if name.startswith("encoder.layers.0"):
            actual, _ = climbed[name]
            _, expected = climbed[name.replace("layers.0", "layers.1")]
            assert published.relative_error(actual, expected) > DIFFERS


# --- Frames and clips -------------------------------------------------------------------


def test_frame_count_is_transformers():
    theirs = published.torch_hubert()
    torch = pytest.importorskip("torch")

    config = HubertConfig.base()
    samples = np.arange(400, 5001)
    expected = theirs._get_feat_extract_output_lengths(torch.from_numpy(samples)).numpy()
    np.testing.assert_array_equal([config.frame_count(int(n)) for n in samples], expected)
    np.testing.assert_array_equal(config.frame_count(jnp.asarray(samples)), expected)
    # A frame is 320 samples, but no ratio gives their number.
    assert (samples // 320 != expected).any()
    assert (np.ceil(samples / 320) != expected).any()


def test_too_few_samples_give_no_frame():
    config = HubertConfig.base()
    assert config.min_samples == 400
    assert [config.frame_count(n) for n in range(400)] == [0] * 400
    assert not np.asarray(config.frame_count(jnp.arange(400))).any()
    assert config.frame_count(400) == 1


def test_min_samples_follows_the_convolutions():
    config = dataclasses.replace(
        HubertConfig.base(), conv_channels=(8, 8), conv_kernels=(10, 3), conv_strides=(5, 2)
    )
    assert config.min_samples == 20
    assert [config.frame_count(n) for n in (19, 20, 29, 30)] == [0, 1, 1, 2]


def test_normalize_clip_is_transformers():
    transformers = pytest.importorskip("transformers")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    clips = [*clips_of((5000,)), 300 * clips_of((400,))[0], 1e-4 * clips_of((700,))[0]]
    for clip in clips:
        expected = extractor(clip, sampling_rate=16_000)["input_values"][0]
        actual = normalize_clip(clip)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=EXACT, rtol=TOLERANCE)
        assert np.abs(actual - clip).max() > DIFFERS
    assert not normalize_clip(np.full(400, 0.25, np.float32)).any()


def test_pad_clips_is_transformers():
    """Each clip normalised alone, then padded with zeros: the large models' own recipe."""
    transformers = pytest.importorskip("transformers")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    clips = clips_of(LENGTHS)
    expected = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="np")
    samples, lengths = mrl_jax.pad_clips(clips, HubertConfig.large())
    np.testing.assert_allclose(samples, expected["input_values"], atol=TOLERANCE)
    np.testing.assert_array_equal(lengths, expected["attention_mask"].sum(axis=1))
    # Normalised after padding, as batches easily are, is something else.
    padded = np.stack([np.pad(clip, (0, max(LENGTHS) - clip.size)) for clip in clips])
    assert np.abs(np.stack([normalize_clip(row) for row in padded]) - samples).max() > DIFFERS


def test_pad_clips_pads_to_size_with_exact_zeros():
    clips = clips_of(LENGTHS)
    samples, lengths = mrl_jax.pad_clips(clips, HubertConfig.base(), size=2400)
    assert samples.shape == (3, 2400)
    assert samples.dtype == np.float32
    assert lengths.dtype == np.int32
    np.testing.assert_array_equal(lengths, LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert not samples[row, length:].any()
        np.testing.assert_array_equal(samples[row, :length], normalize_clip(clips[row]))


def _broken(value: float) -> np.ndarray:
    clip = clips_of((500,))[0]
    clip[7:9] = value
    return clip


@pytest.mark.parametrize(
    ("clip", "problem", "hint"),
    [
        (np.zeros((2, 500), np.float32), r"shape \(2, 500\)", "Mix the channels down"),
        (np.float32(1.0), r"shape \(\)", "Mix the channels down"),
        (_broken(np.nan), "2 of 500 samples .* the first at sample 7", "Decode the recording"),
        (_broken(np.inf), "2 of 500 samples .* the first at sample 7", "Decode the recording"),
        (_broken(-np.inf), "2 of 500 samples .* the first at sample 7", "Decode the recording"),
        (np.zeros(399, np.float32), "399 samples, shorter than one frame of 400", "Leave the clip"),
        (np.zeros(0, np.float32), "0 samples, shorter than one frame", "Leave the clip"),
        (np.zeros(2001, np.float32), "2001 samples, more than the batch's 2000", "Cut the clip"),
    ],
    ids=["stereo", "scalar", "nan", "inf", "-inf", "short", "empty", "long"],
)
@pytest.mark.parametrize("names", [None, ["good.wav", "bad.wav"]], ids=["numbers", "names"])
def test_pad_clips_names_the_clip_and_a_hint(clip, problem, hint, names):
    clips = [*clips_of((600,)), np.asarray(clip)]
    called = "clip 1" if names is None else "bad.wav"
    with pytest.raises(MrlError, match=rf"^{called}: .*{problem}.*\. {hint}") as caught:
        mrl_jax.pad_clips(clips, HubertConfig.base(), size=2000, names=names)
    assert "\n" not in str(caught.value)
    # Its neighbour alone is fine, so it is the clip at fault that is named.
    assert mrl_jax.pad_clips(clips[:1], HubertConfig.base(), size=2000)[1].tolist() == [600]


def test_pad_clips_refuses_an_empty_batch():
    with pytest.raises(MrlError, match=r"there are no clips to embed\. Pass one clip"):
        mrl_jax.pad_clips([], HubertConfig.base())


# --- What is ours alone -----------------------------------------------------------------


def _random_tower(family: str, folder: Path) -> Path:
    config = {**(published.HUBERT if family == "base" else published.HUBERT_LARGE)}
    config |= {
        "model_type": "hubert",
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    }
    (folder / "config.json").write_text(json.dumps(config))
    random_init("hubert", folder / "config.json", folder / "source", seed=SEED)
    convert(str(folder / "source"), folder / "tower", family="hubert")
    return folder / "tower"


@pytest.fixture(scope="module")
def tower_folders(tmp_path_factory) -> dict[str, Path]:
    return {name: _random_tower(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.fixture(scope="module")
def towers(tower_folders) -> dict[str, HubertEncoder]:
    return {name: mrl_jax.load_hubert(folder) for name, folder in tower_folders.items()}


@pytest.fixture(scope="module")
def references(tower_folders) -> dict[str, HubertEncoder]:
    return {
        name: mrl_jax.load_hubert(folder, padding="reference")
        for name, folder in tower_folders.items()
    }


ALONE_SIZES = (400, 1601)  # Each is a compile.
ROWS, SIZE = len(LENGTHS), max(LENGTHS)


@st.composite
def batches(draw):
    """(clip lengths, which clip, the size it is alone in, seed)."""
    alone_size = draw(st.sampled_from(ALONE_SIZES))
    # Quite alone, without a padded sample; or of any length, in the smallest size there is.
    length = draw(st.just(alone_size) | st.integers(400, alone_size))
    lengths = draw(st.lists(st.integers(400, SIZE), min_size=ROWS - 1, max_size=ROWS - 1))
    row = draw(st.integers(0, ROWS - 1))
    lengths.insert(row, length)
    return lengths, row, alone_size, draw(st.integers(0, 9))


def _alone_against_batch(tower, batched, lengths, row, alone_size, seed) -> list[float]:
    """Relative error of every state of one clip: alone in `tower`, in a batch in `batched`."""
    clips = clips_of(lengths, seed)
    frames = slice(tower.config.frame_count(lengths[row]))
    batch = forward(batched, *mrl_jax.pad_clips(clips, tower.config, size=SIZE))
    alone = forward(
        tower, *mrl_jax.pad_clips([clips[row]], tower.config, size=alone_size), quick=True
    )
    pairs = [(batch["last"], alone["last"]), *zip(batch["states"], alone["states"], strict=True)]
    return [published.relative_error(a[row, frames], b[0, frames]) for a, b in pairs]


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=30)
@given(batch=batches())
def test_padding_never_matters(towers, family, batch):
    """Any clip has the same states alone and in any batch, beside clips of any lengths."""
    tower = towers[family]
    assert max(_alone_against_batch(tower, tower, *batch)) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_matters_in_reference_mode(towers, references, family):
    """The case that must differ: every state of a padded clip moves, and of the longest none."""
    modes = towers[family], references[family]
    assert min(_alone_against_batch(*modes, (1601, 1500, 2400), 0, 1601, 0)) > DIFFERS
    longest = _alone_against_batch(*modes, (1601, 1500, 2400), 2, 2400, 0)
    assert max(longest) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_frames_are_exactly_zero(towers, references, family):
    clips = clips_of((1601, 700, 400))
    config = towers[family].config
    samples, lengths = mrl_jax.pad_clips(clips, config, size=SIZE)
    actual = forward(towers[family], samples, lengths)
    expected = np.asarray(length_mask(config.frame_count(jnp.asarray(lengths)), 7))
    np.testing.assert_array_equal(actual["mask"], expected)
    assert expected.sum(axis=1).tolist() == [4, 1, 1]
    for state in (*actual["states"], actual["last"]):
        assert not state[~expected].any()
        assert np.abs(state[expected]).max(axis=-1).min() > DIFFERS
    # Where padding is read as speech it has states of its own.
    reference = forward(references[family], samples, lengths)
    for state in (*reference["states"], reference["last"]):
        assert np.abs(state[~expected]).max(axis=-1).min() > DIFFERS


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_row_is_finite_and_changes_nothing(towers, family):
    """Rows without a clip fill up a batch: no NaN, and no trace in the others."""
    config = towers[family].config
    samples, lengths = mrl_jax.pad_clips(clips_of((1601, 700, 400)), config, size=SIZE)
    full = forward(towers[family], samples, lengths)
    samples[2], lengths[2] = 0, 0
    filled = forward(towers[family], samples, lengths)
    for name in ("states", "last"):
        assert np.isfinite(filled[name]).all()
        np.testing.assert_array_equal(filled[name][..., :2, :, :], full[name][..., :2, :, :])
        assert not filled[name][..., 2, :, :].any()
        assert full[name][..., 2, :, :].any()


@pytest.mark.parametrize(
    ("family", "padding"), [("base", "masked"), ("large", "masked"), ("base", "reference")]
)
def test_gradients_prove_the_masks(towers, references, family, padding):
    """Padded samples and other clips get a gradient of exactly zero; in reference mode not."""
    lengths = np.array([1601, 900, 0], np.int32)
    config = towers[family].config
    samples, _ = mrl_jax.pad_clips(clips_of((1601, 900)), config, size=1601)
    samples = jnp.asarray(np.concatenate([samples, np.zeros((1, 1601), np.float32)]))
    frames = config.frame_count(1601)
    weights = jnp.asarray(
        np.random.default_rng(0).standard_normal(
            (config.num_layers + 2, frames, config.width), np.float32
        )
    )

    # Frames of the second clip's own; what padded frames hold is another test's matter.
    weights = weights.at[:, config.frame_count(900) :].set(0)
    graphdef, state = nnx.split((towers if padding == "masked" else references)[family])

    def loss(samples):
        output = nnx.merge(graphdef, state)(samples, lengths)
        states = jnp.concatenate((output.hidden_states, output.last_hidden[None]))
        return jnp.sum(states[:, 1] * weights)

    actual = np.asarray(jax.jit(jax.grad(loss), compiler_options=QUICK)(samples))
    assert np.isfinite(actual).all()
    # Clips never mix, whatever is padded.
    assert not actual[[0, 2]].any()
    # Samples are read but for the rest that fills no frame.
    read = (config.frame_count(900) - 1) * 320 + config.min_samples
    assert (actual[1, :read] != 0).mean() > 0.99
    assert actual[1, 900:].any() == (padding == "reference")


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32(towers, tower_folders, family):
    tower = towers[family]
    half = mrl_jax.load_hubert(tower_folders[family], dtype=jnp.bfloat16)
    assert {w.dtype for w in param_tree.flat_weights(half).values()} == {jnp.dtype(jnp.bfloat16)}
    batch = mrl_jax.pad_clips(clips_of((1601, 700, 400)), tower.config, size=SIZE)
    actual, expected = forward(half, *batch), forward(tower, *batch)
    assert actual["states"].dtype == jnp.bfloat16
    mask = expected["mask"]
    for a, b in zip(
        (*actual["states"], actual["last"]), (*expected["states"], expected["last"]), strict=True
    ):
        a, b = a[mask].astype(np.float64), b[mask].astype(np.float64)
        cosines = np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert (cosines >= BFLOAT16_COSINE).all()
        # The computation itself must be in bfloat16, not only its name.
        assert published.relative_error(a, b) > 100 * EXACT


def test_remat_and_unroll_leave_the_states(towers, tower_folders):
    """Values alone; gradients of the stack itself are compared in test_layer_stack.py."""
    tower = towers["large"]
    both = mrl_jax.load_hubert(tower_folders["large"], remat=True, unroll=True)
    batch = mrl_jax.pad_clips(clips_of((1601, 700, 400)), tower.config, size=SIZE)
    actual, expected = forward(both, *batch), forward(tower, *batch)
    for name in ("states", "last"):
        assert published.relative_error(actual[name], expected[name]) <= TOLERANCE

    # Each option must have reached the stack, or the comparison proves nothing.
    def program(**options) -> str:
        graphdef, state = nnx.split(mrl_jax.load_hubert(tower_folders["large"], **options))
        return str(jax.make_jaxpr(lambda state: _outputs(graphdef, state, *batch))(state))

    options = ({}, {"remat": True}, {"unroll": True})
    assert len({program(**chosen) for chosen in options}) == len(options)


def test_a_batch_too_short_for_a_frame_is_refused(towers):
    with pytest.raises(ValueError, match="399 samples long, expected at least 400"):
        towers["base"](np.zeros((1, 399), np.float32), np.array([399], np.int32))


def test_an_unknown_padding_is_refused():
    padding: Any = "zero"
    with pytest.raises(ValueError, match="padding is 'zero', expected 'masked' or 'reference'"):
        HubertEncoder(TINY, padding=padding, rngs=nnx.Rngs(0))


# --- The config -------------------------------------------------------------------------

TINY = tiny_towers.HUBERT
# field: (another value, what must change with it)
PERTURBATIONS: dict[str, tuple[Any, str]] = {
    "width": (40, "encoder_norm.scale"),
    "num_layers": (2, "layers.attention_norm.scale"),
    "num_heads": (2, "output"),
    "mlp_width": (56, "layers.feed_forward.up.kernel"),
    "norm_epsilon": (1e-1, "output"),
    "conv_channels": ((16,) * 6 + (24,), "projection.kernel"),
    "conv_kernels": ((10, 3, 3, 3, 3, 2, 3), "feature_encoder.blocks.6.conv.kernel"),
    "conv_strides": ((5, 2, 2, 2, 2, 2, 1), "frames"),
    "conv_bias": (True, "feature_encoder.blocks.0.conv.bias"),
    "feature_norm": ("layer", "feature_encoder.blocks.1.norm.scale"),
    "projection_norm": (False, "projection_norm.scale"),
    "pre_norm": (True, "output"),
    "position_kernel": (15, "position_conv.direction"),
    "position_groups": (8, "position_conv.direction"),
    "position_norm": ("batch", "position_norm.mean"),
    "adapter_width": (8, "layers.adapter.down.kernel"),
    "normalize_clips": (False, "batch"),
    "sample_rate": (8_000, "message"),
}


@functools.cache
def _shapes(config: HubertConfig) -> dict[str, tuple[int, ...]]:
    return {k: v.shape for k, v in param_tree.flat_weights(abstract_hubert(config)).items()}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(HubertConfig)])
def test_every_config_field_is_read(towers, field):
    """A field without an entry above fails here, and so does one that nothing reads."""
    tower = towers["base"]
    assert tower.config == TINY
    value, effect = PERTURBATIONS[field]
    # Only pre-norm layers have adapters.
    more = {"pre_norm": True} if field == "adapter_width" else {}
    config = dataclasses.replace(TINY, **{field: value}, **more)
    clips = clips_of((1601, 700, 400))
    if effect == "batch":
        samples, _ = mrl_jax.pad_clips(clips, config)
        np.testing.assert_array_equal(samples[0], clips[0])
        assert np.abs(mrl_jax.pad_clips(clips, TINY)[0][0] - clips[0]).max() > DIFFERS
    elif effect == "message":
        for changed, milliseconds in ((TINY, "25 ms"), (config, "50 ms")):
            with pytest.raises(MrlError, match=milliseconds):
                mrl_jax.pad_clips(clips_of((100,)), changed)
    elif effect in ("output", "frames"):
        assert _shapes(config) == _shapes(TINY)
        graphdef, _ = nnx.split(param_tree.freeze(abstract_hubert(config)))
        other = nnx.merge(graphdef, nnx.state(tower))
        batch = mrl_jax.pad_clips(clips, TINY, size=SIZE)
        actual, expected = (forward(t, *batch)["last"] for t in (other, tower))
        if effect == "frames":
            assert actual.shape[1] == config.frame_count(SIZE) != TINY.frame_count(SIZE)
        else:
            assert published.relative_error(actual, expected) > DIFFERS
    else:
        assert _shapes(config).get(effect) != _shapes(TINY).get(effect)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "width is 32, expected a multiple of num_heads, 5"),
        ({"position_groups": 5}, "width is 32, expected a multiple of position_groups, 5"),
        ({"adapter_width": 8}, "adapter_width is set, and only pre-norm variants have adapters"),
        ({"conv_strides": (5, 2)}, "one entry a convolution each; got 7, 7 and 2"),
        (
            {"conv_channels": (), "conv_kernels": (), "conv_strides": ()},
            "one entry a convolution each; got 0, 0 and 0",
        ),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)
