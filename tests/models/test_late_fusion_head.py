"""The head's fixed factors: what they fit, and that folding them changes nothing."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layer_states import layer_states

from mrl_jax.models.late_fusion import FusionHead


@pytest.fixture
def states():
    values, mask = layer_states(30.0)
    return jnp.where(mask[None, :, :, None], values, 0), mask


def head() -> FusionHead:
    return FusionHead(3, 8, 16, rngs=nnx.Rngs(0))


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x)))))


def test_calibration_fits_both_sides(states):
    values, mask = states
    fitted = head()
    valid = np.asarray([[True] * 4, [True, True, False, False]])  # 9 frames and 5.
    before = rms(fitted(values))
    fitted.calibrate(values, mask, jnp.float32(0.03))
    assert rms(np.asarray(fitted(values))[valid]) == pytest.approx(0.03, rel=1e-5)
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


def test_folding_changes_the_weights_and_not_the_tokens(states):
    values, mask = states
    fitted = head()
    assert fitted.frame_downsample.bias is not None
    fitted.frame_downsample.bias[...] = jnp.linspace(-1, 1, 16)
    fitted.calibrate(values, mask, jnp.float32(0.03))
    plain, folded = head(), fitted.fold()
    unfolded = np.asarray(plain.frame_projection.kernel[...])
    plain.frame_projection.kernel[...] = jnp.asarray(folded["frame_projection.kernel"])
    plain.frame_downsample.kernel[...] = jnp.asarray(folded["frame_downsample.kernel"])
    assert plain.frame_downsample.bias is not None
    plain.frame_downsample.bias[...] = jnp.asarray(folded["frame_downsample.bias"])
    np.testing.assert_allclose(plain(values), fitted(values), rtol=2e-5, atol=1e-7)
    assert np.abs(unfolded - folded["frame_projection.kernel"]).max() > 1e-2


def test_the_factors_are_not_trained():
    params = nnx.state(head(), nnx.Param)
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(params)}
    assert names == {"frame_downsample.bias", "frame_downsample.kernel", "frame_projection.kernel"}
