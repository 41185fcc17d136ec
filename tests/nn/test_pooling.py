"""Pooling, truncation and unit length, whose order and gradients are easy to get wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.nn.pooling import l2_normalize, mean_valid, pool_first, pool_last, truncate

TOLERANCE = 1e-6


def _noise(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize(
    ("mask", "place"),
    [
        ([1, 1, 1, 1], 3),
        ([1, 1, 0, 0], 1),
        ([0, 0, 1, 1], 3),
        ([0, 1, 1, 0], 2),
        ([1, 0, 1, 0], 2),
        ([0, 0, 0, 0], 0),
    ],
)
def test_pool_last_takes_the_last_valid_place(mask, place):
    vectors = _noise(2, 4, 3)
    masks = jnp.asarray([mask, [1, 0, 0, 0]], jnp.bool_)
    pooled = np.asarray(pool_last(vectors, masks))
    np.testing.assert_array_equal(pooled, np.asarray(vectors)[[0, 1], [place, 0]])


def test_l2_normalize_is_torch():
    torch = pytest.importorskip("torch")
    x = _noise(5, 8) * jnp.asarray([[1e-3], [1.0], [10.0], [1e4], [0.0]])
    expected = torch.nn.functional.normalize(torch.from_numpy(np.array(x)), dim=-1)
    np.testing.assert_allclose(l2_normalize(x), expected.numpy(), atol=TOLERANCE)
    assert np.abs(np.asarray(x) - expected.numpy()).max() > 1


def test_l2_normalize_has_a_finite_gradient_at_zero():
    weights = _noise(2, 8)
    x = jnp.stack([jnp.zeros(8), _noise(8)])
    gradient = jax.grad(lambda x: jnp.sum(l2_normalize(x) * weights))(x)
    assert np.isfinite(np.asarray(gradient)).all()
    assert np.abs(np.asarray(gradient[1])).max() > 0

    def textbook(x: jax.Array) -> jax.Array:
        norms = jnp.linalg.norm(x, axis=-1, keepdims=True)
        return jnp.sum(x / jnp.maximum(norms, 1e-12) * weights)

    # The plain formula is what this one is there to replace.
    assert np.isnan(np.asarray(jax.grad(textbook)(x))).any()


def test_l2_normalize_gradient_is_torchs():
    torch = pytest.importorskip("torch")
    x, weights = _noise(3, 8), _noise(4, 3, 8)[3]
    gradient = jax.grad(lambda x: jnp.sum(l2_normalize(x) * weights))(x)
    tensor = torch.from_numpy(np.array(x)).requires_grad_()
    normalized = torch.nn.functional.normalize(tensor, dim=-1)
    (normalized * torch.from_numpy(np.array(weights))).sum().backward()
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=TOLERANCE)
    assert np.abs(np.asarray(gradient)).max() > 1e-2


def test_l2_normalize_gives_float32_for_bfloat16():
    x = _noise(4, 8).astype(jnp.bfloat16)
    normalized = l2_normalize(x)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=-1), 1, atol=TOLERANCE)


def test_truncate_cuts_before_it_normalises():
    x = _noise(5, 8)
    cut = np.asarray(x)[:, :3]
    expected = cut / np.linalg.norm(cut, axis=-1, keepdims=True)
    np.testing.assert_allclose(truncate(x, 3), expected, atol=TOLERANCE)
    # The other order leaves rows shorter than one.
    other = np.asarray(l2_normalize(x))[:, :3]
    assert np.abs(other - expected).max() > 0.1


def test_truncate_of_unit_rows_is_truncate_of_raw_rows():
    # Stored full-width embeddings can be cut later: the scale of a row does not matter.
    x = _noise(5, 8)
    np.testing.assert_allclose(truncate(l2_normalize(x), 3), truncate(x, 3), atol=TOLERANCE)
    assert np.abs(np.asarray(truncate(x, 3)) - np.asarray(truncate(x, 4))[:, :3]).max() > 1e-2


@pytest.mark.parametrize("dim", [0, -1, 9])
def test_truncate_refuses_a_dim_outside_the_embedding(dim):
    with pytest.raises(ValueError, match=rf"dim is {dim}, expected 1 to 8"):
        truncate(_noise(2, 8), dim)


def test_mean_valid_is_over_valid_places_alone() -> None:
    vectors = np.asarray([[[1.0, 2.0], [3.0, 6.0], [np.nan, np.inf]], np.ones((3, 2))], np.float32)
    mask = jnp.asarray([[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(mean_valid(jnp.asarray(vectors), mask), [[2, 4], [0, 0]])


@pytest.mark.parametrize(
    ("mask", "place"), [([1, 1, 1, 1], 0), ([0, 0, 1, 1], 2), ([0, 1, 0, 1], 1), ([0, 0, 0, 0], 0)]
)
def test_pool_first_takes_the_first_valid_place(mask, place):
    vectors = _noise(2, 4, 3)
    masks = jnp.asarray([mask, [0, 0, 0, 1]], jnp.bool_)
    pooled = np.asarray(pool_first(vectors, masks))
    np.testing.assert_array_equal(pooled, np.asarray(vectors)[[0, 1], [place, 3]])
