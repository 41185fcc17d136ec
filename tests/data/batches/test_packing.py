"""Packed batches of texts: every token once, the same pairs as padded, few shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.data.batches.packing import PackedPairSource, first_fit, rounded_rows
from mrl_jax.data.batches.text import TextBatchConfig, TextPairSource
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer

ROW = 16


@settings(deadline=None)
@given(st.lists(st.integers(1, ROW), min_size=1, max_size=40), st.randoms())
def test_every_token_has_a_place_of_its_own(lengths, random):
    firsts, rows = first_fit(np.asarray(lengths), ROW)
    places = [
        first + n for first, length in zip(firsts, lengths, strict=True) for n in range(length)
    ]
    assert len(set(places)) == len(places) == sum(lengths)
    assert 0 <= min(places) <= max(places) < rows * ROW
    assert len({place // ROW for place in places}) == rows
    for first, length in zip(firsts, lengths, strict=True):
        assert first // ROW == (first + length - 1) // ROW
    assert rows <= 2 * sum(lengths) // ROW + 1
    shuffled = random.sample(lengths, len(lengths))
    assert first_fit(np.asarray(shuffled), ROW)[1] == rows


def test_the_longest_come_first_and_equal_ones_in_their_order():
    firsts, rows = first_fit(np.asarray([4, 10, 4, 12, 2]), ROW)
    assert firsts.tolist() == [12, 16, 26, 0, 30]
    assert rows == 2


def test_a_row_holds_no_more_texts_than_asked_for():
    lengths = np.asarray([3, 1, 1, 1, 1, 1])
    firsts, rows = first_fit(lengths, ROW, most=2)
    assert (firsts // ROW).tolist() == [0, 0, 1, 1, 2, 2]
    assert rows == 3
    assert first_fit(lengths, ROW)[1] == 1


def test_rounded_rows_are_near_and_few():
    sizes = [rounded_rows(rows) for rows in range(1, 513)]
    assert sizes == sorted(sizes)
    assert sizes[:34] == [*range(1, 33), 34, 34]
    assert all(rows <= size <= rows * 17 / 16 + 1 for rows, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 32 + 4 * 16


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, text in new_tokenizer(["abcdefgh"], units="characters").items():
        (folder / name).write_text(text)
    return TextTokenizer(folder, max_tokens=64)


def padded_source(tokenizer, *, number=90, batch_size=16):
    rng = np.random.default_rng(0)

    def text():
        return "".join(rng.choice(list("abcdefgh"), rng.integers(1, 60)))

    pairs = [TextPair(query=text(), document=text()) for _ in range(number)]
    config = TextBatchConfig(batch_size=batch_size, max_tokens=64)
    return TextPairSource(pairs, tokenizer, config, seed=0)


def unpacked(batch, group):
    """Token ids of each text of a group, found by the numbers of its places."""
    tokens, texts = batch.tokens[group].reshape(-1), batch.texts[group].reshape(-1)
    found = []
    for text, (first, length) in enumerate(
        zip(batch.firsts[group], batch.lengths[group], strict=True)
    ):
        places = np.flatnonzero(texts == text)
        assert places.tolist() == list(range(first, first + length))
        found.append(tokens[places].tolist())
    nothing = texts == len(found)
    assert (~nothing).sum() == sum(map(len, found))
    assert not tokens[nothing].any()
    return found


@pytest.mark.parametrize("split", [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_groups_hold_the_rows_of_their_device_and_part(tokenizer, split):
    source = padded_source(tokenizer)
    packed, (devices, parts) = PackedPairSource(source, split), split
    for step in (0, 7):
        batch, rows = packed(step), source(step)
        np.testing.assert_array_equal(batch.query_ids, rows.query_ids)
        np.testing.assert_array_equal(batch.document_ids, rows.document_ids)
        sides = (rows.query, rows.query_mask), (rows.document, rows.document_mask)
        texts = [[ids[keep].tolist() for ids, keep in zip(*side, strict=True)] for side in sides]
        of_device = len(rows.query) // devices
        for group in range(devices * parts):
            device, part = divmod(group, parts)
            places = range(device * of_device + part, (device + 1) * of_device, parts)
            expected = [side[place] for side in texts for place in places]
            assert unpacked(batch, group) == expected


def test_batches_are_a_function_of_the_step_and_hosts_have_their_groups(tokenizer):
    source = padded_source(tokenizer)
    packed = PackedPairSource(source, (2, 2))
    late = next(PackedPairSource(padded_source(tokenizer), (2, 2)).from_step(7))
    halves = [PackedPairSource(source, (2, 2), shard=(host, 2))(7) for host in range(2)]
    for name, whole in dataclasses.asdict(packed(7)).items():
        np.testing.assert_array_equal(getattr(late, name), whole)
        both = np.concatenate([getattr(half, name) for half in halves])
        np.testing.assert_array_equal(both, whole)
    assert not np.array_equal(packed(7).tokens, packed(8).tokens)


def test_shapes_are_few_in_all_epochs_and_places_fewer_than_padded(tokenizer):
    source = padded_source(tokenizer, number=900)
    packed = PackedPairSource(source, (1, 1))
    assert packed.row == 128
    assert len(packed.shapes) <= 25
    steps = range(3 * source.batches_per_epoch)
    rows = [packed(step).tokens.shape for step in steps]
    assert {shape[1:] for shape in rows} <= {(*shape, 128) for shape in packed.shapes}
    padded = [source(step) for step in steps]
    before = sum(batch.query.size + batch.document.size for batch in padded)
    after = sum(int(np.prod(shape)) for shape in rows)
    tokens = sum(int(x.query_mask.sum() + x.document_mask.sum()) for x in padded)
    assert tokens < after < 0.85 * before
    assert jax.tree.leaves(packed(0))[0].dtype == np.int32
