"""Noise on the vectors of tokens; a tower reads dropped tokens as if they were not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.data.batches.token_noise import VectorNoise
from mrl_jax.data.text.tokenizer import pad_tokens
from mrl_jax.demo.towers import text_config
from mrl_jax.models.init import initial_tower
from mrl_jax.training.text_tower.noise import mixed_vectors, noisy_vectors, normal_noise

RNG = np.random.default_rng(0)
TABLE = jnp.asarray(3 * RNG.standard_normal((20, 16)), jnp.float32)
TOKENS = RNG.integers(0, 20, (6, 9)).astype(np.int32)
SEEDS = np.arange(6, dtype=np.uint32)


def test_normal_noise_is_relative_to_the_table_and_of_the_rows_seeds():
    deviation = np.zeros((6, 500), np.float32)
    deviation[:, :400] = 0.5
    noise = np.asarray(normal_noise(TABLE, SEEDS, deviation))
    size = float(np.sqrt(np.mean(np.square(np.asarray(TABLE)))))
    assert np.std(noise[:, :400]) == pytest.approx(0.5 * size, rel=0.02)
    assert np.mean(noise[:, :400]) == pytest.approx(0, abs=0.02 * size)
    assert not noise[:, 400:].any()
    # In another batch, and beside other rows, a row has the same noise.
    turned = np.asarray(normal_noise(TABLE, SEEDS[[4, 1]], deviation[[4, 1]]))
    np.testing.assert_array_equal(turned, noise[[4, 1]])
    assert len({row.tobytes() for row in noise}) == 6
    gradient = jax.grad(lambda table: jnp.sum(normal_noise(table, SEEDS, deviation)))(TABLE)
    assert not np.asarray(gradient).any()


def test_vectors_are_mixed_by_weight():
    weight = RNG.uniform(size=(6, 9)).astype(np.float32)
    weight[:, ::2] = 0
    other = RNG.integers(0, 20, (6, 9)).astype(np.int32)
    table = np.asarray(TABLE)
    vectors = jnp.asarray(table[TOKENS])
    mixed = np.asarray(mixed_vectors(vectors, TABLE, other, weight))
    for row, place in np.ndindex(6, 9):
        share = weight[row, place]
        expected = share * table[other[row, place]] + (1 - share) * table[TOKENS[row, place]]
        np.testing.assert_allclose(mixed[row, place], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mixed[:, ::2], table[TOKENS][:, ::2])
    plain = noisy_vectors(vectors, TABLE, VectorNoise())
    np.testing.assert_array_equal(plain, vectors)
    both = noisy_vectors(
        vectors,
        TABLE,
        VectorNoise(other=other, weight=weight, seeds=SEEDS, normal=np.ones((6, 9), np.float32)),
    )
    expected = mixed + normal_noise(TABLE, SEEDS, np.ones((6, 9), np.float32))
    np.testing.assert_allclose(both, expected, rtol=1e-5)


def test_a_dropped_token_is_read_as_if_it_were_not_there():
    tower = initial_tower(text_config(20, width=16, num_layers=2), 0)
    whole, mask = pad_tokens([[3, 4, 5, 6, 7, 0], [8, 9, 0]], 8)
    kept = mask.copy()
    kept[0, [1, 3]] = False
    kept[1, 0] = False
    shorter = pad_tokens([[3, 5, 7, 0], [9, 0]], 8)
    ours = np.asarray(tower.embed(whole, kept))
    np.testing.assert_allclose(ours, np.asarray(tower.embed(*shorter)), atol=1e-6)
    assert np.abs(ours - np.asarray(tower.embed(whole, mask))).max() > 1e-3
