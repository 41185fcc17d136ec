"""Counted operations against XLA's own count and the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mrl_jax.training.flops import count_matmul_flops

KEY = jax.random.key(0)


def xla_flops(function, *inputs) -> float:
    counted = jax.jit(function).lower(*inputs).compile().cost_analysis()
    assert counted is not None
    return counted["flops"]


def test_matrix_products_and_their_gradients_are_xlas_count():
    weights, rows = jnp.ones((64, 96)), jnp.ones((32, 64))

    def loss(weights, rows):
        return jnp.sum(rows @ weights * 2)

    assert count_matmul_flops(loss, weights, rows) == 2 * 32 * 64 * 96
    ours = count_matmul_flops(jax.value_and_grad(loss, argnums=(0, 1)), weights, rows)
    assert ours == 3 * 2 * 32 * 64 * 96


def test_a_scanned_layer_counts_as_often_as_it_runs():
    weights, rows = jnp.ones((5, 64, 64)), jnp.ones((32, 64))

    def scanned(weights, rows):
        return lax.scan(lambda x, w: (x @ w, None), rows, weights)[0]

    def unrolled(weights, rows):
        for layer in range(5):
            rows = rows @ weights[layer]
        return rows

    ours = count_matmul_flops(scanned, weights, rows)
    assert ours == count_matmul_flops(unrolled, weights, rows) == 5 * 2 * 32 * 64 * 64
    assert ours == pytest.approx(xla_flops(unrolled, weights, rows), rel=0.02)
    again = count_matmul_flops(
        jax.grad(lambda w, x: jnp.sum(jax.checkpoint(scanned)(w, x) ** 2), argnums=(0, 1)),
        weights,
        rows,
    )
    # Forward twice, less the last layer's second time; backward once for each input.
    assert 4 * ours - 2 * 32 * 64 * 64 <= again <= 4 * ours


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 4)])
def test_convolutions_are_xlas_count(stride, groups):
    clip, kernel = jnp.ones((2, 101, 16)), jnp.ones((5, 16 // groups, 24))

    def convolve(clip, kernel):
        return lax.conv_general_dilated(
            clip,
            kernel,
            (stride,),
            "VALID",
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=groups,
        )

    ours = count_matmul_flops(convolve, clip, kernel)
    frames = (101 - 5) // stride + 1
    assert ours == 2 * 2 * frames * 24 * 5 * 16 / groups
    assert ours == pytest.approx(xla_flops(convolve, clip, kernel), rel=0.05)


def test_all_devices_count():
    rows = jnp.ones((2, 8, 16))
    weights = jnp.ones((16, 16))
    one = 2 * 8 * 16 * 16
    mapped = jax.pmap(lambda w, x: x @ w, in_axes=(None, 0), devices=jax.devices()[:2])
    assert count_matmul_flops(mapped, weights, rows) == 2 * one
    branches = lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ weights, lambda x: x, x)  # noqa: E731
    assert count_matmul_flops(branches, rows[0]) == one
    assert np.isclose(count_matmul_flops(lambda x: x + 1, rows), 0)
