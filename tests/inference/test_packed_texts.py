"""Texts that share rows get the vectors that they get alone."""

import jax
import numpy as np
import pytest
from compilations import compilations
from hypothesis import given, settings
from hypothesis import strategies as st

import mrl_jax
from mrl_jax.core.distributed import batch_sharded
from mrl_jax.inference import encoder, packed_texts
from mrl_jax.inference.packed_texts import FEWEST, ROW, ROWS, TEXTS, embed_packed, packing_pays

WORDS = ("ba", "ce", "di", "fo", "gu")


def read_back(ids, texts, firsts, lengths):
    """[groups, TEXTS, 3]: of each text the sum of its ids, its tokens, and what is amiss."""
    found = np.zeros((*np.shape(firsts), 3), np.float32)
    for group, rows in enumerate(np.asarray(texts)):
        given = np.asarray(ids)[group].reshape(-1)
        for number in range(TEXTS):
            here = rows.reshape(-1) == number
            if not here.any():
                continue
            first, length = firsts[group, number], lengths[group, number]
            places = np.arange(first, first + length)
            wrong = not np.array_equal(np.flatnonzero(here), places)
            wrong |= first // ROW != (first + length - 1) // ROW
            found[group, number] = given[here].sum(), length, wrong
    return found


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 40) | st.integers(1, ROW), min_size=1, max_size=400),
    devices=st.integers(1, 2),
)
def test_every_text_has_its_own_places_and_vector(lengths, devices):
    numbers = np.arange(sum(lengths)) % 1000 + 1
    tokens = [part.tolist() for part in np.split(numbers, np.cumsum(lengths)[:-1])]
    sharding = batch_sharded(jax.devices()[:devices]) if devices > 1 else None
    found = embed_packed(tokens, read_back, sharding=sharding)
    expected = [(sum(ids), len(ids), 0) for ids in tokens]
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))


def test_equal_texts_are_embedded_once():
    asked = []

    def counted(*arrays):
        asked.append(arrays[0])
        return read_back(*arrays)

    found = embed_packed([[5] * ROW, [7], [5] * ROW] * 8, counted)
    assert len(asked) == 1
    assert found[:3, 0].tolist() == [5 * ROW, 7, 5 * ROW]


def test_texts_are_shared_out_by_thousands(monkeypatch):
    monkeypatch.setattr(packed_texts, "TOGETHER", 7)
    tokens = [[number] * (number % 5 + 1) for number in range(1, 31)]
    found = embed_packed(tokens, read_back)
    assert found[:, 0].tolist() == [number * (number % 5 + 1) for number in range(1, 31)]


@pytest.fixture(scope="module")
def embedder(root):
    return mrl_jax.Embedder.load(root / "model")


def texts_of(count: int) -> list[str]:
    """Of 1 to 20 words."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size)) for size in rng.integers(1, 21, count)]


def packed_counts(monkeypatch) -> list[int]:
    """Of texts that are packed from now on, in each call."""
    asked: list[int] = []

    def counted(tokens, *arguments, **options):
        asked.append(len(tokens))
        return embed_packed(tokens, *arguments, **options)

    monkeypatch.setattr(encoder, "embed_packed", counted)
    return asked


def test_packed_vectors_are_those_of_padded_texts(embedder, monkeypatch):
    texts = texts_of(400)
    asked = packed_counts(monkeypatch)
    # Some of these are too long for such rows, and are padded among packed ones.
    for module in (encoder, packed_texts):
        monkeypatch.setattr(module, "ROW", 32)
    packed = embedder.embed_text(texts)
    assert 100 < sum(asked) < len(texts)
    monkeypatch.setattr(encoder, "packing_pays", lambda *lengths: False)
    padded = embedder.embed_text(texts)
    np.testing.assert_allclose(packed, padded, atol=1e-5)
    assert np.abs(packed - np.roll(padded, 1, axis=0)).max() > 1e-2
    assert len(asked) == 1


def test_texts_of_any_length_compile_one_program(embedder, monkeypatch):
    texts, asked = texts_of(500), packed_counts(monkeypatch)
    embedder.embed_text(texts)
    with compilations() as names:
        embedder.embed_text(texts[::-1])
        embedder.embed_text([*texts, *texts])
    assert names == []
    assert asked == [500, 500, 1000]
    monkeypatch.setattr(embedder.encoder, "batch_size", 500)
    embedder.embed_text(texts)
    assert len(asked) == 3
    monkeypatch.undo()
    monkeypatch.setattr(encoder, "packing_pays", lambda *lengths: False)
    jax.clear_caches()
    with compilations() as names:
        embedder.embed_text(texts)
    assert len(names) > 2


def test_a_few_texts_and_those_for_a_gpu_are_padded(monkeypatch):
    full = [ROW] * (FEWEST * ROWS)
    assert packing_pays(full)
    assert not packing_pays(full[1:])
    assert not packing_pays(full, devices=2)
    assert not packing_pays([ROW + 1] * 1000)
    # One to a row of 256, these would be padded to 144.
    assert not packing_pays([140] * 1000)
    assert packing_pays([140, 100] * 1000)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not packing_pays(full)
