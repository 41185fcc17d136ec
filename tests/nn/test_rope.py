"""Rotary position embedding against transformers' own, and the property it is there for."""

import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.nn.rope import apply_rope, rope_angles

TOLERANCE = 1e-5
# A frequency is known to 6e-8 in float32, and position 4095 multiplies that.
LONG_TOLERANCE = 5e-4
HEAD = 16
THETA = 1e6


def _transformers_rope(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """[B, L, N, H] turned by transformers; its heads stand before its tokens."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from transformers.models.qwen3 import modeling_qwen3

    config = transformers.Qwen3Config(
        head_dim=x.shape[-1],
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    heads_first = torch.from_numpy(x).transpose(1, 2)
    cos, sin = modeling_qwen3.Qwen3RotaryEmbedding(config)(heads_first, torch.from_numpy(positions))
    turned, _ = modeling_qwen3.apply_rotary_pos_emb(heads_first, heads_first, cos, sin)
    return turned.transpose(1, 2).numpy()


def _ours(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    angles = rope_angles(jnp.asarray(positions), x.shape[-1], theta)
    return np.asarray(apply_rope(jnp.asarray(x), angles))


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize(
    ("start", "tolerance"), [(0, TOLERANCE), (4064, LONG_TOLERANCE)], ids=["near", "far"]
)
def test_rope_is_transformers(theta, start, tolerance):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 32, 3, HEAD), np.float32)
    positions = np.stack([start + np.arange(32), start + rng.permutation(32)]).astype(np.int32)
    np.testing.assert_allclose(
        _ours(x, positions, theta), _transformers_rope(x, positions, theta), atol=tolerance
    )


def test_theta_matters():
    x = np.random.default_rng(0).standard_normal((1, 32, 1, HEAD), np.float32)
    positions = np.arange(32, dtype=np.int32)[None]
    assert np.abs(_ours(x, positions, 1e6) - _ours(x, positions, 1e4)).max() > 0.1


def test_pairs_are_half_a_head_apart():
    """Position 1 turns coordinate 0 into coordinate H/2, not into its neighbour."""
    x = np.zeros((1, 1, 1, HEAD), np.float32)
    x[..., 0] = 1
    turned = _ours(x, np.array([[1]], np.int32), THETA)[0, 0, 0]
    expected = np.zeros(HEAD)
    expected[0], expected[HEAD // 2] = np.cos(1), np.sin(1)
    np.testing.assert_allclose(turned, expected, atol=TOLERANCE)


def test_scores_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 1, 1, 1, HEAD), np.float32)

    def score(query_at: int, key_at: int) -> float:
        turned = [
            _ours(x, np.array([[at]], np.int32), THETA)
            for x, at in ((query, query_at), (key, key_at))
        ]
        return float(np.sum(turned[0] * turned[1]))

    assert score(7, 3) == pytest.approx(score(107, 103), abs=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-2


def test_bfloat16_heads_are_turned_in_float32():
    """Angles and products stay float32: the result is rounded to bfloat16 once."""
    x = np.random.default_rng(0).standard_normal((1, 600, 1, HEAD), np.float32)
    x = np.asarray(jnp.asarray(x, jnp.bfloat16))
    positions = np.arange(600, dtype=np.int32)[None]
    angles = rope_angles(jnp.asarray(positions), HEAD, THETA)
    assert angles.dtype == jnp.float32
    turned = apply_rope(jnp.asarray(x), angles)
    assert turned.dtype == jnp.bfloat16
    expected = jnp.asarray(_ours(x.astype(np.float32), positions, THETA)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(expected))
    # bfloat16 has no whole numbers between 512 and 514: positions must not pass through it.
    coarse = rope_angles(jnp.asarray(positions).astype(jnp.bfloat16).astype(jnp.int32), HEAD, THETA)
    assert np.any(np.asarray(coarse) != np.asarray(angles))
