"""Splits share no speaker, document or recording, and are the same each time."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.rows import Row
from mrl_jax.curation.split import Split, SplitConfig

PARTS = {"train": 0.8, "dev": 0.1, "test": 0.1}


def rows_of(count: int, speakers: int, documents: int) -> list[Row]:
    draw = np.random.default_rng(0)
    return [
        Row(
            id=str(i),
            audio=f"{i}.wav",
            speaker=f"s{draw.integers(speakers)}",
            document_id=f"d{i % documents}",
        )
        for i in range(count)
    ]


def split(rows, **fields):
    fields = {"parts": PARTS, "seed": 0, **fields}
    return Split(SplitConfig(**fields)).apply(rows)


def shared(rows, name) -> int:
    """Values of a field that are in more than one split."""
    splits: dict[str, set] = {}
    for row in rows:
        splits.setdefault(getattr(row, name), set()).add(row.split)
    return sum(len(own) > 1 for own in splits.values())


def test_speakers_are_in_one_split_and_sizes_as_asked():
    rows = split(rows_of(1000, 50, 1000))
    assert shared(rows, "speaker") == 0
    counts = {name: sum(row.split == name for row in rows) for name in PARTS}
    assert counts == pytest.approx({"train": 800, "dev": 100, "test": 100}, rel=0.25)
    assert [row.id for row in rows] == [row.id for row in rows_of(1000, 50, 1000)]


def test_what_is_not_asked_to_be_disjoint_is_not():
    rows = split(rows_of(1000, 50, 400), disjoint=("document",))
    assert shared(rows, "document_id") == 0
    assert shared(rows, "speaker") > 0


def test_the_order_of_the_seed_decides_and_nothing_else():
    rows = rows_of(300, 30, 300)
    assert split(rows) == split(rows)
    assert split(rows) != split(rows, seed=1)


def test_counts_leave_the_rest_to_one_split():
    rows = split(rows_of(400, 100, 400), parts={"train": 0.0, "dev": 40.0, "test": 20.0})
    counts = {name: sum(row.split == name for row in rows) for name in PARTS}
    assert counts["dev"] == pytest.approx(40, abs=10)
    assert counts["test"] == pytest.approx(20, abs=5)


def test_a_split_too_small_for_its_speakers_is_refused():
    with pytest.raises(MrlError, match=r"dev would have \d+ rows, expected about 10: the 3 groups"):
        split(rows_of(100, 3, 100))


def test_given_splits_are_kept_and_draw_their_speakers():
    rows = rows_of(1000, 50, 1000)
    rows[0] = dataclasses.replace(rows[0], split="test")
    after = split(rows)
    assert after[0].split == "test"
    mates = {row.split for row in after if row.speaker == rows[0].speaker}
    assert mates == {"test"}


def test_given_splits_that_share_a_speaker_are_kept_unless_a_new_row_is_torn():
    rows = [Row(id=str(i), speaker="s", split=name) for i, name in enumerate(("train", "dev"))]
    assert split(rows) == rows
    with pytest.raises(MrlError, match="the speaker 's' is in the splits dev and train as they"):
        split([*rows, Row(id="new", speaker="s")])


def test_clips_of_one_recording_stay_together_without_a_speaker():
    rows = [
        Row(id=f"{r}@{i}", audio=f"{r}.wav", start=float(i), end=i + 1.0)
        for r in range(60)
        for i in range(10)
    ]
    after = split(rows)
    assert shared(after, "audio") == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=60))
def test_no_group_is_torn_whatever_the_rows(pairs):
    rows = [Row(id=str(i), speaker=f"s{a}", document_id=f"d{b}") for i, (a, b) in enumerate(pairs)]
    try:
        after = split(rows, tolerance=1.0)
    except MrlError:  # Too few groups.
        return
    assert shared(after, "speaker") == shared(after, "document_id") == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": 0.8, "dev": 0.1}, "the fractions sum to 0.9, expected 1"),
        ({"train": 10.0, "dev": 5.0}, "0 of the counts are 0, expected one"),
        ({"train": 0.0, "dev": 20.0, "test": 0.1}, "counts and fractions"),
        ({"all": 1.0}, "'all' is no name of a split"),
        ({"train": 1.5, "dev": -0.5}, "expected numbers of 0 or more"),
        ({"train": 1.0, "dev": 0.0}, "a fraction is 0"),
    ],
)
def test_parts_without_sense_are_refused(parts, message):
    with pytest.raises(MrlError, match=message):
        SplitConfig(parts=parts)


def test_more_rows_than_there_are_are_refused():
    with pytest.raises(MrlError, match="the counts sum to 500, and there are 100 rows"):
        split(rows_of(100, 50, 100), parts={"train": 0.0, "dev": 500.0})


def test_where_the_recordings_lie_decides_nothing():
    rows = [Row(id=str(i), audio=f"/a/{i}.wav") for i in range(100)]
    moved = [dataclasses.replace(row, audio=f"/b{row.audio}") for row in rows]
    assert [row.split for row in split(rows)] == [row.split for row in split(moved)]


def test_a_sentence_without_a_text_is_a_document():
    rows = [
        Row(id=str(i), audio=f"{i}.wav", speaker=f"s{i}", transcript=f"t{i % 40}")
        for i in range(200)
    ]
    assert shared(split(rows), "transcript") == 0


def test_rows_that_are_all_drawn_by_others_are_no_split_too_small():
    given = [Row(id=f"g{i}", speaker="s", split="train") for i in range(20)]
    after = split([*given, Row(id="new", speaker="s")])
    assert {row.split for row in after} == {"train"}
