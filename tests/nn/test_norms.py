"""The norms against torch's and transformers' own modules."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mrl_jax.nn.masking import length_mask
from mrl_jax.nn.norms import LayerNorm, RMSNorm, TimeGroupNorm

TOLERANCE = 1e-5  # float32 rounding over a few dozen additions.
# At mean 1000 a float32 sample is only known to 6e-5, and scales reach 3: torch and we
# each stand 1e-4 times the scale from the float64 result.
OFFSET_TOLERANCE = 1e-3
WIDTH = 24


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _fill(ours, theirs):
    """Copy torch's weights, drawn at random because ones and zeros hide mistakes."""
    import torch

    rng = np.random.default_rng(1)
    for name, leaf in (("weight", ours.scale), ("bias", getattr(ours, "bias", None))):
        if leaf is None:
            continue
        values = rng.standard_normal(leaf.shape, np.float32)
        leaf[...] = jnp.asarray(values)
        with torch.no_grad():
            getattr(theirs, name).copy_(torch.from_numpy(values))
    return ours, theirs


@pytest.fixture
def rms_norm():
    qwen3 = pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
    ours = RMSNorm(WIDTH, epsilon=1e-6, param_dtype=jnp.float32)
    return _fill(ours, qwen3.Qwen3RMSNorm(WIDTH, eps=1e-6))


@pytest.fixture
def layer_norm():
    torch = pytest.importorskip("torch")
    ours = LayerNorm(WIDTH, epsilon=1e-5, param_dtype=jnp.float32)
    return _fill(ours, torch.nn.LayerNorm(WIDTH))


@pytest.fixture
def group_norm():
    torch = pytest.importorskip("torch")
    ours = TimeGroupNorm(WIDTH, epsilon=1e-5, param_dtype=jnp.float32)
    return _fill(ours, torch.nn.GroupNorm(WIDTH, WIDTH))


def _run(theirs, x: np.ndarray) -> np.ndarray:
    """torch's output; a group norm wants its channels second."""
    import torch

    tensor = torch.from_numpy(x)
    if isinstance(theirs, torch.nn.GroupNorm):
        return theirs(tensor.transpose(1, 2)).transpose(1, 2).detach().numpy()
    return theirs(tensor).detach().numpy()


@pytest.mark.parametrize("shape", [(WIDTH,), (5, WIDTH), (2, 5, 3, WIDTH)])
def test_rms_norm_is_transformers(rms_norm, shape):
    # Heads are normed as [B, L, N, H] and tokens as [B, L, D]: any rank must do.
    ours, theirs = rms_norm
    x = _noise(*shape)
    np.testing.assert_allclose(ours(jnp.asarray(x)), _run(theirs, x), atol=TOLERANCE)


def test_rms_norm_epsilon_matters_for_small_inputs(rms_norm):
    # Mean squares near 1e-6 are where a wrong epsilon shows; near 1 any epsilon passes.
    ours, theirs = rms_norm
    x = 1e-3 * _noise(4, WIDTH)
    np.testing.assert_allclose(ours(jnp.asarray(x)), _run(theirs, x), atol=TOLERANCE)
    ours.epsilon = 1e-5
    assert np.abs(ours(jnp.asarray(x)) - _run(theirs, x)).max() > 0.1


def test_rms_norm_rounds_to_bfloat16_before_it_scales(rms_norm):
    """Normalise in float32, cast, then scale: another order differs in the last bit."""
    torch = pytest.importorskip("torch")
    ours, theirs = rms_norm
    x = 100 * _noise(64, WIDTH)
    actual = ours(jnp.asarray(x, jnp.bfloat16))
    expected = theirs.to(torch.bfloat16)(torch.from_numpy(x).to(torch.bfloat16))
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(actual, np.float32), expected.detach().float().numpy())

    x32 = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
    normed = x32 / np.sqrt(np.mean(x32**2, -1, keepdims=True) + 1e-6)
    scaled_first = jnp.asarray(normed * np.asarray(ours.scale[...])).astype(jnp.bfloat16)
    assert np.any(np.asarray(actual) != np.asarray(scaled_first))


@pytest.mark.parametrize(
    ("mean", "tolerance"), [(0.0, TOLERANCE), (1000.0, OFFSET_TOLERANCE)], ids=["centred", "offset"]
)
def test_layer_norm_is_torch(layer_norm, mean, tolerance):
    ours, theirs = layer_norm
    x = _noise(2, 7, WIDTH) + np.float32(mean)
    np.testing.assert_allclose(ours(jnp.asarray(x)), _run(theirs, x), atol=tolerance)


@pytest.mark.parametrize(
    ("mean", "tolerance"), [(0.0, TOLERANCE), (1000.0, OFFSET_TOLERANCE)], ids=["centred", "offset"]
)
def test_group_norm_is_torch(group_norm, mean, tolerance):
    ours, theirs = group_norm
    x = _noise(2, 50, WIDTH) + np.float32(mean)
    np.testing.assert_allclose(ours(jnp.asarray(x), None), _run(theirs, x), atol=tolerance)


def test_flax_layer_norm_fails_at_a_large_mean(layer_norm):
    """Why the norms are ours: flax's own variance is E[x²] − E[x]², its epsilon 1e-6."""
    _, theirs = layer_norm
    flax_norm = nnx.LayerNorm(WIDTH, rngs=nnx.Rngs(0))
    assert flax_norm.scale is not None
    assert flax_norm.bias is not None
    flax_norm.scale[...] = jnp.asarray(theirs.weight.detach().numpy())
    flax_norm.bias[...] = jnp.asarray(theirs.bias.detach().numpy())
    x = _noise(2, 7, WIDTH) + np.float32(1000)
    error = np.abs(np.asarray(flax_norm(jnp.asarray(x))) - _run(theirs, x)).max()
    assert error > 10 * OFFSET_TOLERANCE


@pytest.mark.parametrize("fixture", ["layer_norm", "group_norm"])
def test_epsilon_is_torchs(fixture, request):
    # Variance near 1e-5 is where an epsilon of 1e-6 would show.
    ours, theirs = request.getfixturevalue(fixture)
    x = 3e-3 * _noise(2, 50, WIDTH)

    def run() -> np.ndarray:
        given = (jnp.asarray(x), None) if fixture == "group_norm" else (jnp.asarray(x),)
        return np.asarray(ours(*given))

    np.testing.assert_allclose(run(), _run(theirs, x), atol=TOLERANCE)
    ours.epsilon = 1e-6
    assert np.abs(run() - _run(theirs, x)).max() > 0.1


@pytest.mark.parametrize("fixture", ["layer_norm", "group_norm"])
def test_statistics_are_float32_for_bfloat16_inputs(fixture, request):
    """A bfloat16 input gives the float32 result of its values, rounded once."""
    ours, theirs = request.getfixturevalue(fixture)
    x = jnp.asarray(_noise(2, 300, WIDTH) + 20, jnp.bfloat16)
    actual = ours(x, None) if fixture == "group_norm" else ours(x)
    expected = _run(theirs, np.array(x, np.float32))
    assert actual.dtype == jnp.bfloat16
    error = np.abs(np.asarray(actual, np.float32) - expected)
    assert (error <= 2**-8 * np.abs(expected) + TOLERANCE).all()


def test_masked_group_norm_is_torch_on_each_clip_alone(group_norm):
    ours, theirs = group_norm
    lengths = np.array([50, 31, 1, 7], np.int32)
    x = _noise(4, 50, WIDTH)
    for row, length in enumerate(lengths):
        # What the first convolution gives at padding is a constant, not zero.
        x[row, length:] = 5.0
    masked = np.asarray(ours(jnp.asarray(x), length_mask(jnp.asarray(lengths), 50)))
    unmasked = np.asarray(ours(jnp.asarray(x), None))
    for row, length in enumerate(lengths):
        if length == 1:
            # torch refuses one frame; zero variance leaves the bias alone.
            expected = np.broadcast_to(np.asarray(ours.bias[...]), (1, WIDTH))
        else:
            expected = _run(theirs, x[row : row + 1, :length])[0]
        np.testing.assert_allclose(masked[row, :length], expected, atol=TOLERANCE)
        if length < 50:
            assert np.abs(unmasked[row, :length] - expected).max() > 0.1


def test_masked_group_norm_of_an_empty_clip_is_finite(group_norm):
    ours, _ = group_norm
    mask = jnp.zeros((1, 9), jnp.bool_)
    assert np.isfinite(np.asarray(ours(jnp.asarray(_noise(1, 9, WIDTH)), mask))).all()
