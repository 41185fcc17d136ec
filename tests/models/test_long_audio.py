"""Speech encoders in blocks of frames against the same encoders on whole clips."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_fusion
import tiny_towers
from flax import nnx
from tiers import mostly_slow

from mrl_jax.models.hubert import HubertConfig, HubertEncoder
from mrl_jax.models.late_fusion import FusionHead
from mrl_jax.models.soft_ctc import pairs_of, runs_of
from mrl_jax.models.speech_tower import Padding
from mrl_jax.models.wavlm import WavLMConfig, WavLMEncoder, encoder_type
from mrl_jax.nn.block_attention import BLOCK

TOLERANCE = 1e-5
HOP = 320
SIZE = 16
SAMPLES = 40 * HOP + 77
"""40 frames: two blocks and a half, the last convolution's rest behind them."""
LENGTHS = np.array([SAMPLES, 20 * HOP, 16 * HOP + 80, 100], np.int32)
BASE = dataclasses.replace(tiny_towers.HUBERT, num_layers=2, position_kernel=16)
LARGE = dataclasses.replace(
    BASE, feature_norm="layer", conv_bias=True, pre_norm=True, adapter_width=8
)
FIELDS = {field.name: getattr(BASE, field.name) for field in dataclasses.fields(BASE)}
WAVLM = WavLMConfig(**FIELDS, position_buckets=16, position_distance=20)
CONFIGS = {
    "base": BASE,
    "large with adapters": LARGE,
    "batch norm": dataclasses.replace(BASE, position_norm="batch", position_kernel=15),
    "wavlm": WAVLM,
    "wavlm large": dataclasses.replace(WAVLM, feature_norm="layer", pre_norm=True),
}


def _tower(config: HubertConfig, padding: Padding) -> HubertEncoder:
    tower = encoder_type(config)(config, padding=padding, rngs=nnx.Rngs(0))
    if isinstance(tower, WavLMEncoder):
        embedding = tower.position_bias.embedding
        embedding[...] = 50 * embedding[...]
    return tower


def _samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((len(LENGTHS), SAMPLES), np.float32) + np.float32(0.3)
    return np.where(np.arange(SAMPLES) < LENGTHS[:, None], samples, np.float32(0))


def _outputs(tower, *, size: int | None, gradients: bool):
    graphdef, state = nnx.split(tower)

    def run(state, samples):
        tower = nnx.merge(graphdef, state)
        lengths = jnp.asarray(LENGTHS)
        output = (
            tower(samples, lengths)
            if size is None
            else tower.in_blocks(samples, lengths, size=size)
        )
        parts = (output.last_hidden, output.layer_states, output.layer_input)
        loss = sum(
            jnp.sum(part * jnp.cos(jnp.arange(part.size).reshape(part.shape))) for part in parts
        )
        return loss, (*parts, output.frame_mask)

    both = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)
    inputs = (state, jnp.asarray(_samples()))
    (_, parts), found = jax.jit(both)(*inputs) if gradients else (jax.jit(run)(*inputs), ())
    leaves = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(found)
    }
    return [np.asarray(part, np.float64) for part in parts], leaves


def _error(actual, expected) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("name", "padding", "gradients"),
    mostly_slow(
        [
            ("base", "masked", True),
            ("base", "reference", False),
            ("large with adapters", "masked", True),
            ("batch norm", "masked", False),
            ("wavlm", "masked", True),
            ("wavlm large", "reference", False),
        ],
        quick=2,
    ),
)
def test_blocks_are_the_whole_clip_in_states_and_gradients(name, padding, gradients):
    tower = _tower(CONFIGS[name], padding)
    plain, wanted = _outputs(tower, size=None, gradients=gradients)
    blocks, found = _outputs(tower, size=SIZE, gradients=gradients)
    for actual, expected in zip(blocks, plain, strict=True):
        assert actual.shape == expected.shape
        assert _error(actual, expected) < TOLERANCE
    largest = max((float(jnp.max(jnp.abs(leaf))) for leaf in wanted.values()), default=0.0)
    for path, right in wanted.items():
        # Some are zero but for rounding: a bias of keys moves no softmax.
        np.testing.assert_allclose(found[path], right, rtol=1e-3, atol=1e-5 * largest, err_msg=path)
    # The last clip has no frame at all.
    assert bool(plain[3][3].any()) == (padding == "reference")


@pytest.mark.slow
def test_statistics_over_time_are_those_of_the_whole_clip():
    """Statistics of a block alone differ: the clip grows louder."""
    tower = _tower(BASE, "masked")
    samples = _samples()[:1] * np.linspace(0.1, 3, SAMPLES, dtype=np.float32)
    lengths = LENGTHS[:1]
    whole = np.asarray(tower(samples, lengths).last_hidden)
    for size in (SIZE, 24):  # Where blocks begin does not show.
        blocks = tower.in_blocks(samples, lengths, size=size)
        assert _error(np.asarray(blocks.last_hidden), whole) < TOLERANCE
    first = np.asarray(tower(samples[:, : 17 * HOP], np.array([17 * HOP])).layer_input)
    assert _error(first[:, :4], np.asarray(tower(samples, lengths).layer_input)[:, :4]) > 1e-2


def test_long_clips_are_in_blocks_and_memory_grows_with_their_length():
    config = tiny_fusion.SPEECH
    tower = HubertEncoder(config, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(tower)

    def lowered(frames: int):
        samples = jax.ShapeDtypeStruct((1, (frames - 1) * 20 + 20), jnp.float32)
        lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
        run = jax.jit(lambda state, *clips: nnx.merge(graphdef, state)(*clips).layer_states)
        return run.lower(state, samples, lengths)

    def temporary(frames: int) -> int:
        analysis = lowered(frames).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    # Scores with all frames are an array for short clips, of half the queries, and none for long.
    assert "1024x2048x" in lowered(2048).as_text()
    assert not any(f"{queries}x4096x" in lowered(4096).as_text() for queries in (512, 4096))
    long, longer = (temporary(frames) for frames in (8 * BLOCK, 16 * BLOCK))
    assert long < longer < 2.2 * long


def test_a_fusion_head_adds_up_layers_as_it_reads_them_side_by_side():
    head = FusionHead(3, 4, 5, rngs=nnx.Rngs(0))
    head.layer_scale[...] = jnp.asarray([1.0, 0.5, 2.0])
    rng = np.random.default_rng(0)
    states = rng.standard_normal((3, 1, 2 * BLOCK + 3, 4), np.float32)
    scaled = states * np.array([1.0, 0.5, 2.0], np.float32)[:, None, None, None]
    beside = np.moveaxis(scaled, 0, 2).reshape(1, -1, 12)
    frames = beside @ np.asarray(head.frame_projection.kernel[...])
    expected = head.frame_downsample(jnp.asarray(frames))
    np.testing.assert_allclose(head(jnp.asarray(states)), expected, atol=1e-5)


@pytest.mark.parametrize("size", [500, 3000], ids=["some lost", "all kept"])
def test_groups_of_frames_of_long_clips_are_those_of_their_beginning(size):
    """Groups by sums over frames, where short clips have a product."""
    rng = np.random.default_rng(0)
    keep, best = rng.random((2, 3 * BLOCK)) > 0.3, rng.integers(0, 4, (2, 3 * BLOCK))
    frames = jnp.asarray(rng.standard_normal((2, 3 * BLOCK, 3), np.float32))
    bound = jnp.full(2, size, jnp.int32)
    for groups in (
        lambda end: runs_of(jnp.asarray(keep[:, :end]), jnp.asarray(best[:, :end]), size, bound),
        lambda end: pairs_of(jnp.asarray(keep[:, :end]), size, bound),
    ):
        long, short = groups(3 * BLOCK), groups(BLOCK)
        assert isinstance(long.weights, tuple)
        assert not isinstance(short.weights, tuple)
        # The last group of the beginning may go on.
        known = min(int(short.wanted.min()) - 1, size)
        averages = long.average(frames), short.average(frames[:, :BLOCK])
        np.testing.assert_allclose(averages[0][:, :known], averages[1][:, :known], atol=1e-6)
        assert known > 300
