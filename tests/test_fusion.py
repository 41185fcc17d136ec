"""The head's fixed factors: what they fit, and that folding them changes nothing."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mrl_jax.models.fusion import FusionHead


@pytest.fixture
def states():
    rng = np.random.default_rng(0)
    sizes = np.asarray([1.0, 30.0, 0.02], np.float32)[:, None, None, None]
    values = rng.standard_normal((3, 2, 9, 8), dtype=np.float32) * sizes
    mask = np.ones((2, 9), bool)
    mask[1, 5:] = False
    values[:, ~mask] = 0
    return jnp.asarray(values), jnp.asarray(mask)


def head(*, whiten: bool = False) -> FusionHead:
    return FusionHead(3, 8, 16, whiten=whiten, rngs=nnx.Rngs(0))


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x)))))


def test_calibration_fits_both_sides(states):
    values, mask = states
    fitted = head()
    heard = np.asarray([[True] * 4, [True, True, False, False]])  # 9 frames and 5.
    before = rms(fitted(values))
    fitted.calibrate(values, mask, jnp.float32(0.03))
    assert rms(np.asarray(fitted(values))[heard]) == pytest.approx(0.03, rel=1e-5)
    assert before > 10 * 0.03
    for layer, scale in zip(values, fitted.layer_scale[...], strict=True):
        assert rms(layer[mask]) * float(scale) == pytest.approx(1, rel=1e-5)
    # Padding has no part in it.
    other = head()
    other.calibrate(values[:, :, :5], mask[:, :5], jnp.float32(0.03))
    alone = head()
    alone.calibrate(values[:, 1:, :5], mask[1:, :5], jnp.float32(0.03))
    padded = head()
    padded.calibrate(values[:, 1:], mask[1:], jnp.float32(0.03))
    np.testing.assert_allclose(padded.layer_scale[...], alone.layer_scale[...], rtol=1e-6)
    np.testing.assert_allclose(padded.token_scale[...], alone.token_scale[...], rtol=1e-5)
    assert np.abs(np.asarray(other.layer_scale[...] / alone.layer_scale[...]) - 1).max() > 1e-3


def test_silence_leaves_finite_factors():
    fitted = head()
    fitted.calibrate(jnp.zeros((3, 1, 4, 8)), jnp.ones((1, 4), bool), jnp.float32(0.03))
    assert np.isfinite(np.asarray(fitted.layer_scale[...])).all()
    assert np.isfinite(float(fitted.token_scale[...]))


def test_whitened_frames_are_alike_in_every_direction():
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24)) + 5
    values = jnp.asarray(mixed.reshape(4, 100, 3, 8).transpose(2, 0, 1, 3), jnp.float32)
    mask = np.ones((4, 100), bool)
    mask[0, 50:] = False
    fitted = head(whiten=True)
    fitted.calibrate(values, jnp.asarray(mask), jnp.float32(0.03))
    frames = np.asarray(fitted._side_by_side(values))[mask]
    white = (frames - np.asarray(fitted.frame_mean[...])) @ np.asarray(fitted.frame_whitening[...])
    np.testing.assert_allclose(frames.mean(axis=0), fitted.frame_mean[...], rtol=1e-4)
    powers, before = (np.linalg.eigvalsh(np.cov(x.T, bias=True)) for x in (white, frames))
    # The largest comes to 1, and none above it; the ridge keeps the weakest below.
    np.testing.assert_allclose(np.sort(powers), np.sort(before / (before + 0.01 * before.mean())),
                               rtol=1e-3)  # fmt: skip
    assert before.max() / np.median(before) > 2 * powers.max() / np.median(powers)


@pytest.mark.parametrize("whiten", [False, True])
def test_folding_changes_the_weights_and_not_the_tokens(states, whiten):
    values, mask = states
    fitted = head(whiten=whiten)
    fitted.frame_downsample.bias[...] = jnp.linspace(-1, 1, 16)
    fitted.calibrate(values, mask, jnp.float32(0.03))
    plain, folded = head(), fitted.fold()
    unfolded = np.asarray(plain.frame_projection.kernel[...])
    plain.frame_projection.kernel[...] = jnp.asarray(folded["frame_projection.kernel"])
    plain.frame_downsample.kernel[...] = jnp.asarray(folded["frame_downsample.kernel"])
    plain.frame_downsample.bias[...] = jnp.asarray(folded["frame_downsample.bias"])
    np.testing.assert_allclose(plain(values), fitted(values), rtol=2e-4, atol=1e-6)
    assert np.abs(unfolded - folded["frame_projection.kernel"]).max() > 1e-2


def test_the_factors_are_not_trained():
    params = nnx.state(head(), nnx.Param)
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(params)}
    assert names == {"frame_downsample.bias", "frame_downsample.kernel", "frame_projection.kernel"}
