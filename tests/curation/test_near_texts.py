"""Near pairs: against sets of Python, and against datasketch."""

import dataclasses
import itertools
import random

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.near_texts import (
    NearConfig,
    band_keys,
    band_shape,
    groups,
    jaccard,
    near_pairs,
)
from mrl_jax.curation.shingles import mixed, shingles

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("l", "mbe", "n", "rs")]


def sentences(count: int, *, seed: int = 0, changed: float = 0.5) -> list[str]:
    """Random sentences; a share of them with one word of the one before replaced."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < changed:
            words = texts[-1].split()
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        else:
            words = rng.choices(WORDS, k=rng.randint(1, 14))
        texts.append(" ".join(words))
    return list(dict.fromkeys(texts))


def true_shingles(text: str, config: NearConfig) -> set:
    size = config.size
    units = text.split() if config.unit == "words" else list(text)
    if not units:
        return set()
    edge = ["#"] * (size - 1)
    units = [*edge, *units, *edge]
    return {tuple(units[i : i + size]) for i in range(len(units) - size + 1)}


def true_pairs(texts: list[str], config: NearConfig) -> dict[tuple[int, int], float]:
    sets = [true_shingles(text, config) for text in texts]
    result = {}
    for a, b in itertools.combinations(range(len(texts)), 2):
        union = len(sets[a] | sets[b])
        similarity = len(sets[a] & sets[b]) / union if union else 0.0
        if similarity >= config.threshold:
            result[a, b] = similarity
    return result


@pytest.mark.parametrize(
    "config",
    [
        NearConfig(threshold=0.7),
        NearConfig(threshold=0.5, size=3),
        NearConfig(threshold=0.5, unit="words", size=2),
        NearConfig(threshold=1.0),
    ],
)
def test_pairs_are_those_of_all_pairs_compared(config):
    texts = sentences(300)
    wanted = true_pairs(texts, config)
    found = near_pairs(texts, config)
    pairs = dict(zip(zip(found.first, found.second, strict=True), found.similarity, strict=True))
    assert set(pairs) <= set(wanted)  # Nothing below the threshold.
    assert len(pairs) >= 0.99 * len(wanted)
    for pair, similarity in pairs.items():
        assert similarity == pytest.approx(wanted[pair])
    if config.threshold < 1:
        assert len(wanted) > 30
        assert near_pairs(texts, NearConfig(threshold=0.99)).first.size < len(pairs)


def test_datasketch_finds_the_same_pairs():
    datasketch = pytest.importorskip("datasketch")
    texts, config = sentences(150, seed=3), NearConfig(threshold=0.8)
    index = datasketch.MinHashLSH(params=(32, 4), num_perm=128)
    sets = [[("".join(s)).encode() for s in true_shingles(t, config)] for t in texts]
    hashes = list(datasketch.MinHash.bulk(sets, num_perm=128))
    for place, one in enumerate(hashes):
        index.insert(place, one)
    near = true_pairs(texts, config)
    candidates = {(min(a, b), max(a, b)) for a, h in enumerate(hashes) for b in index.query(h)}
    theirs = candidates & set(near)
    found = near_pairs(texts, config)
    ours = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert ours == theirs != set()


def test_minhash_estimates_jaccard():
    """The share of equal signatures of one hash is the similarity, by the theorem of MinHash."""
    first, second = "a b c d e f g h i j", "a b c d e f g h x y"
    config = NearConfig(unit="words", size=1, threshold=0.3)
    [true] = true_pairs([first, second], config).values()
    keys = [
        band_keys([first, second], dataclasses.replace(config, hashes=1024, seed=seed))
        for seed in range(4)
    ]
    _, rows = band_shape(dataclasses.replace(config, hashes=1024))
    assert true**rows > 0.1
    equal = np.mean([(one[0] == one[1]).mean() for one in keys])
    assert equal == pytest.approx(true**rows, abs=0.05)


def test_held_out_texts_are_compared_with_the_others_alone():
    texts = sentences(200, seed=5)
    config = NearConfig(threshold=0.6)
    wanted = {pair for pair in true_pairs(texts, config) if pair[0] < 60 <= pair[1]}
    found = near_pairs(texts, config, held_out=60)
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == wanted
    everything = near_pairs(texts, config)
    assert len(everything.first) > len(wanted) == len(found.first)


def test_hashes_do_not_depend_on_the_texts_around():
    one, owners = shingles(["abc", "", "a", "abcd"], 3)
    alone, _ = shingles(["abcd"], 3)
    assert owners.tolist() == [0, 2, 3, 3]
    assert one[2:].tolist() == alone.tolist()
    assert one[0] == one[2]  # "abc", in two texts.
    assert one[1] != shingles(["a\x00"], 3)[0][0]
    words, _ = shingles(["one two three", "two three"], 2, "words")
    assert words[1] == words[2] != words[0]


def test_mixing_is_one_to_one_and_changes_half_of_the_bits():
    numbers = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(mixed(numbers))) == len(numbers)
    flipped = np.bitwise_count(mixed(numbers) ^ mixed(numbers ^ np.uint64(1)))
    assert flipped.mean() == pytest.approx(32, abs=0.2)


def test_texts_without_a_shingle_are_near_nothing():
    found = near_pairs(["", "", "word"], NearConfig())
    assert len(found.first) == 0
    assert len(near_pairs([], NearConfig()).first) == 0
    assert jaccard(["", ""], np.array([0]), np.array([1]), NearConfig()).tolist() == [0.0]


def test_groups_are_linked_over_several_pairs():
    texts = ["abcdefghij", "zzzzzzzz", "abcdefghijk", "abcdefghijkl"]
    pairs = near_pairs(texts, NearConfig(threshold=0.57))
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(0, 2), (2, 3)]
    assert groups(4, pairs).tolist() == [0, 1, 0, 0]


def test_a_change_at_the_end_counts_as_one_inside():
    config = NearConfig(threshold=0.1)
    inside = near_pairs(["we saw my house", "we saw by house"], config).similarity
    ends = near_pairs(["my house we saw", "ny house we saw"], config).similarity
    assert inside.tolist() == ends.tolist() != []


def test_more_pairs_are_asked_for_by_shorter_bands():
    assert band_shape(NearConfig(threshold=0.9))[1] > band_shape(NearConfig(threshold=0.5))[1]
    bands, rows = band_shape(NearConfig(threshold=0.85))
    assert bands * rows <= 128
    assert 1 - (1 - 0.85**rows) ** bands >= 0.99


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", 0.0), ("threshold", 1.5), ("size", 0), ("hashes", 2), ("unit", "letters")],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(MrlError, match=f"{field} is {value!r}, expected"):
        NearConfig(**{field: value})
