"""How rows are shared out among batches."""

from typing import Any

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.inference.batching import (
    BUSY_PLACES,
    FINE_GROWTH,
    GROWTH,
    MUCH_AUDIO,
    SECOND,
    busy_places,
    clip_growth,
    embed_batches,
    padded_clips,
    run_batches,
)
from mrl_jax.models.hubert import HubertConfig

LENGTHS = st.lists(st.integers(0, 200), min_size=1, max_size=40)


def batches(lengths: list[int], **options: Any) -> list[tuple[list[int], int]]:
    """Row numbers of each batch, and the rows that were computed for it."""
    asked: list[list[int]] = []

    def inputs(rows: list[int]) -> tuple[Any, ...]:
        asked.append(rows)
        return (np.asarray(rows),)

    done = [rows.tolist() for rows, _ in run_batches(lengths, inputs, np.negative, **options)]
    return [(rows, len(computed)) for rows, computed in zip(done, asked, strict=True)]


@settings(deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 16), busy=st.integers(1, 500))
def test_a_busy_device_gets_no_more_places(lengths, batch_size, busy):
    shared = batches(lengths, batch_size=batch_size, busy=busy, shrink_last=True)
    assert sorted(row for rows, _ in shared for row in rows) == list(range(len(lengths)))
    if len(lengths) <= batch_size:
        assert len(shared) == 1
        return
    for rows, computed in shared:
        longest = max(lengths[row] for row in rows)
        assert computed == 1 or computed * longest <= max(busy, longest)
        assert computed & (computed - 1) == 0 or computed == batch_size


def test_rows_of_unlike_lengths_are_not_padded_together():
    lengths = [100] * 3 + [10] * 13
    alone = batches(lengths, batch_size=8, busy=200)
    assert [rows for rows, _ in alone] == [[0, 1], [2, 3], list(range(4, 12)), [12, 13, 14, 15]]
    assert [computed for _, computed in alone] == [2, 2, 8, 8]
    without = batches(lengths, batch_size=8)
    assert [rows for rows, _ in without] == [list(range(8)), list(range(8, 16))]


@settings(deadline=None, max_examples=20)
@given(lengths=LENGTHS, busy=st.none() | st.integers(1, 500))
def test_rows_come_back_in_their_order(lengths, busy):
    vectors = embed_batches(
        lengths,
        lambda rows: (np.asarray([[lengths[row], row] for row in rows], np.float32),),
        np.negative,
        batch_size=4,
        busy=busy,
    )
    expected = -np.stack([lengths, np.arange(len(lengths))], axis=1)
    np.testing.assert_array_equal(vectors, expected)


def test_a_batch_does_not_depend_on_the_device_where_padding_counts():
    assert busy_places("clips") == BUSY_PLACES["clips"]
    assert busy_places("clips", "reference") is None


def test_hours_of_audio_are_padded_less(monkeypatch):
    assert clip_growth([MUCH_AUDIO // 2, MUCH_AUDIO // 2 - 1]) == GROWTH
    assert clip_growth([MUCH_AUDIO // 2, MUCH_AUDIO // 2]) == FINE_GROWTH
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert clip_growth([MUCH_AUDIO] * 2) == GROWTH


@settings(deadline=None)
@given(longest=st.integers(400, 15 * SECOND), growth=st.sampled_from([GROWTH, FINE_GROWTH]))
def test_a_padded_length_is_the_next_of_few(longest, growth):
    clips = [np.zeros(400, np.float32), np.zeros(longest, np.float32)]
    config = HubertConfig.base()
    samples, lengths = padded_clips(clips, config, padding="masked", growth=growth)
    assert lengths.tolist() == [400, longest]
    assert longest <= samples.shape[1] <= max(SECOND, growth * longest + 320)
    again, _ = padded_clips(
        [np.zeros(samples.shape[1], np.float32)], config, padding="masked", growth=growth
    )
    assert again.shape[1] == samples.shape[1]
