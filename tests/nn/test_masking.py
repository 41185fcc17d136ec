"""Masks and positions, against the same in a loop."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrl_jax.nn.masking import causal_mask, length_mask, token_positions

masks = hnp.arrays(np.bool_, st.tuples(st.just(3), st.just(6)))


def test_length_mask_counts_from_the_left():
    actual = np.asarray(length_mask(jnp.asarray([0, 1, 4, 9]), 4))
    expected = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    np.testing.assert_array_equal(actual, np.array(expected, bool))


@settings(deadline=None)
@given(masks)
def test_positions_number_the_valid_tokens(mask):
    positions = np.asarray(token_positions(jnp.asarray(mask)))
    for row, valid in zip(positions, mask, strict=True):
        np.testing.assert_array_equal(row[valid], np.arange(valid.sum()))
    assert (positions >= 0).all()


def test_positions_do_not_count_padding():
    mask = jnp.asarray([[False, False, True, True], [True, True, False, False]])
    positions = np.asarray(token_positions(mask))
    assert positions[0, 2:].tolist() == positions[1, :2].tolist() == [0, 1]
    # A plain count of places would give the left-padded text 2 and 3.
    assert positions[0, 2:].tolist() != [2, 3]


@settings(deadline=None)
@given(masks)
def test_causal_mask_admits_valid_keys_up_to_the_query(mask):
    actual = np.asarray(causal_mask(jnp.asarray(mask)))
    assert actual.shape == (3, 1, 6, 6)
    for row in range(3):
        for query in range(6):
            for key in range(6):
                assert actual[row, 0, query, key] == (key <= query and mask[row, key])
