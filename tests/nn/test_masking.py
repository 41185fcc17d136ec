"""Masks and orders of places, against the same in a loop."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrl_jax.nn.masking import length_mask, segment_positions, take_places, valid_first

masks = hnp.arrays(np.bool_, st.tuples(st.just(3), st.just(6)))


def test_length_mask_counts_from_the_left():
    actual = np.asarray(length_mask(jnp.asarray([0, 1, 4, 9]), 4))
    expected = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    np.testing.assert_array_equal(actual, np.array(expected, bool))


@settings(deadline=None)
@given(masks)
def test_valid_places_come_first_and_keep_their_order(mask):
    order = np.asarray(valid_first(jnp.asarray(mask)))
    for row, valid in zip(order, mask, strict=True):
        assert row.tolist() == [*np.flatnonzero(valid), *np.flatnonzero(~valid)]


def test_positions_begin_anew_in_every_segment():
    segments = jnp.asarray([[4, 4, 4, 1, 1, 0], [2, 3, 3, 3, 2, 2]])
    actual = segment_positions(segments).tolist()
    assert actual == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 0, 1]]


def test_places_are_taken_row_by_row_under_any_leading_axes():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2, 3, 5, 4))
    order = np.stack([rng.permutation(5) for _ in range(3)])
    actual = np.asarray(take_places(jnp.asarray(vectors, jnp.float32), jnp.asarray(order)))
    for layer in range(2):
        for row in range(3):
            expected = vectors[layer, row][order[row]].astype(np.float32)
            np.testing.assert_array_equal(actual[layer, row], expected)
    assert not np.array_equal(actual, vectors.astype(np.float32))
