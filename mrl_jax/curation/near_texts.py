"""Pairs of nearly equal texts: MinHash signatures in bands, each candidate verified by Jaccard.

A text is the set of its shingles: runs of so many characters or words. MinHash and its bands
(Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3) find candidates, whose true
Jaccard similarity decides. All of it works on arrays of many texts at once: one object a text, as
in datasketch, takes nine times as long (benchmarks/curation_million.py measures both).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float64, Int64, UInt32, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mrl_jax.core.arguments import PositiveInt, Range, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.curation.shingles import Unit, mixed, shingles

Similarity = Annotated[float, Range(0.0, 1.0, open=True)]
"""A Jaccard similarity above 0; 1 is equality."""
_BLOCK = 8192
"""Texts, or pairs, that are worked on at once: their arrays stay in the cache's reach."""
_FULL_BUCKET = 64
"""Texts of one bucket that are compared pair by pair; each of a larger one with so many before."""
_EDGE = "\x02"
"""Stands before and after a text: a character of no text."""
_LEAST_FOUND = 0.995
"""Share of the pairs at the threshold that become candidates; of nearer ones, more."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class NearConfig:
    """What counts as nearly equal.

    Attributes:
        threshold: the least Jaccard similarity of two texts' shingles.
        unit, size: shingles are runs of so many characters or words.
        hashes: values of a signature; more of them allow longer bands, thus fewer candidates.
        seed: of the hash functions.
    """

    threshold: Similarity = 0.85
    unit: Unit = "characters"
    size: PositiveInt = 4
    hashes: Annotated[int, Range(16.0, 1024.0)] = 128
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of texts and their similarity.

    Attributes:
        first, second: places of texts, first below second; sorted, no pair twice.
        similarity: Jaccard, threshold or more.
    """

    first: Int64[HostArray, " P"]
    second: Int64[HostArray, " P"]
    similarity: Float64[HostArray, " P"]


@checked
def near_pairs(texts: Sequence[str], config: NearConfig, *, held_out: int | None = None) -> Pairs:
    """Pairs of texts whose Jaccard similarity is the threshold or more.

    Of the pairs at the threshold at least 99 in 100 are found, of nearer ones more; none is
    below it. Equal texts should be made one before: a million of them are many pairs.

    Args:
        texts: as they are to be compared: normalised. One without a shingle is near none.
        held_out: the number of texts, from the first on, that are compared with all others and
            neither with each other nor the others among themselves; None compares all with all.
    """
    texts = padded(texts, config)
    first, second = _candidates(band_keys(texts, config), held_out)
    similarity = jaccard(texts, first, second, config)
    kept = similarity >= config.threshold - 1e-12
    return Pairs(first[kept], second[kept], similarity[kept])


def padded(texts: Sequence[str], config: NearConfig) -> list[str]:
    """Texts with marks at both ends, so that a change there touches as many shingles as elsewhere.

    Otherwise "my house" and "by house" would be nearer than "my house" and "my horse".
    """
    if config.unit == "words":
        before, after = f"{_EDGE} " * (config.size - 1), f" {_EDGE}" * (config.size - 1)
    else:
        before = after = _EDGE * (config.size - 1)
    return [f"{before}{text}{after}" if text else "" for text in texts]


def groups(count: int, pairs: Pairs) -> Int64[HostArray, " N"]:
    """For each of `count` texts the first text that it is linked to, over any number of pairs."""
    ones = np.ones(len(pairs.first), np.int8)
    graph = coo_array((ones, (pairs.first, pairs.second)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, first, of = np.unique(labels, return_index=True, return_inverse=True)
    return first[of].astype(np.int64)


def jaccard(
    texts: Sequence[str],
    first: Int64[HostArray, " P"],
    second: Int64[HostArray, " P"],
    config: NearConfig,
) -> Float64[HostArray, " P"]:
    """Of each pair the shingles that both have, as a share of those that one has."""
    result = np.zeros(len(first))
    for begin in range(0, len(first), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        result[part] = _jaccard_block(texts, first[part], second[part], config)
    return result


def _jaccard_block(
    texts: Sequence[str],
    first: Int64[HostArray, " P"],
    second: Int64[HostArray, " P"],
    config: NearConfig,
) -> Float64[HostArray, " P"]:
    places, of = np.unique(np.concatenate([first, second]), return_inverse=True)
    chosen_texts: list[str] = [str(texts[place]) for place in places.tolist()]
    values, owners = shingles(chosen_texts, config.size, config.unit)
    values, owners = _without_repeats(values, owners)
    sizes = np.bincount(owners, minlength=len(places))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pairs = len(first)
    # A shingle of both texts stands twice among the pair's: mixed with the pair's number, equal
    # ones become neighbours by one sort over all pairs.
    taken = sizes[of]
    number = np.tile(np.arange(pairs), 2).repeat(taken)
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    chosen = values[np.repeat(starts[of], taken) + within]
    keys = mixed(chosen + mixed(number.astype(np.uint64)))
    order = np.argsort(keys)
    same = keys[order][1:] == keys[order][:-1]
    shared = np.bincount(number[order][1:][same], minlength=pairs)
    union = taken[:pairs] + taken[pairs:] - shared
    return shared / np.maximum(union, 1)


def _without_repeats(
    values: UInt64[HostArray, " N"], owners: Int64[HostArray, " N"]
) -> tuple[UInt64[HostArray, " M"], Int64[HostArray, " M"]]:
    """Each shingle of a text once, ordered by text."""
    order = np.lexsort((values, owners))
    values, owners = values[order], owners[order]
    new = np.ones(len(values), bool)
    new[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
    return values[new], owners[new]


def band_shape(config: NearConfig) -> tuple[int, int]:
    """Bands, and hashes of each: the longest bands that find what the threshold asks for."""
    for rows in range(config.hashes, 0, -1):
        bands = config.hashes // rows
        if 1 - (1 - config.threshold**rows) ** bands >= _LEAST_FOUND:
            return bands, rows
    return config.hashes, 1


def band_keys(texts: Sequence[str], config: NearConfig) -> UInt64[HostArray, "N bands"]:
    """Of each text the hash of every band of its signature; 0 where it has no shingle."""
    bands, rows = band_shape(config)
    rng = np.random.default_rng(config.seed)
    factors = rng.integers(0, 2**31, (bands, rows), np.uint32) * np.uint32(2) + np.uint32(1)
    shifts = rng.integers(0, 2**32, (bands, rows), np.uint32)
    keys = np.zeros((len(texts), bands), np.uint64)
    for begin in range(0, len(texts), _BLOCK):
        values, owners = shingles(texts[begin : begin + _BLOCK], config.size, config.unit)
        if not len(values):
            continue
        some, starts = np.unique(owners, return_index=True)
        short = (values >> np.uint64(32)).astype(np.uint32)
        for band in range(bands):
            key = np.full(len(some), band, np.uint64)
            for factor, shift in zip(factors[band], shifts[band], strict=True):
                least = _least(short, factor, shift, starts)
                key = mixed(key + least.astype(np.uint64))
            keys[begin + some, band] = key | np.uint64(1)
    return keys


def _least(
    values: UInt32[HostArray, " N"], factor: np.uint32, shift: np.uint32, starts: HostArray
) -> UInt32[HostArray, " M"]:
    """The least value of each text after one permutation of all numbers of 32 bits."""
    moved = values * factor + shift
    moved ^= moved >> np.uint32(15)  # The low bits of a product depend on few: mix the high in.
    moved *= np.uint32(0x85EBCA6B)
    return np.minimum.reduceat(moved, starts)


def _candidates(
    keys: UInt64[HostArray, "N bands"], held_out: int | None
) -> tuple[Int64[HostArray, " P"], Int64[HostArray, " P"]]:
    """Pairs that share a band, each once, in order."""
    count = max(len(keys), 1)
    codes = [np.zeros(0, np.int64)]
    for band in keys.T:
        of_band = _within(band) if held_out is None else _across(band, held_out)
        codes += [first * count + second for first, second in of_band]
        codes = [np.unique(np.concatenate(codes))]  # Most pairs share several bands.
    return codes[0] // count, codes[0] % count


def _within(band: UInt64[HostArray, " N"]) -> Iterator[tuple[HostArray, HostArray]]:
    """Places with one key: each with up to `_FULL_BUCKET` before it, by their distance."""
    order = np.argsort(band, kind="stable")  # Stable: places of a bucket ascend.
    ordered = band[order]
    for distance in range(1, min(_FULL_BUCKET, len(band))):
        same = (ordered[distance:] == ordered[:-distance]) & (ordered[distance:] != 0)
        if not same.any():
            return
        yield order[:-distance][same], order[distance:][same]


def _across(band: UInt64[HostArray, " N"], held_out: int) -> Iterator[tuple[HostArray, HostArray]]:
    """Each place behind the held-out ones with up to `_FULL_BUCKET` of those with its key."""
    order = np.argsort(band[:held_out], kind="stable")
    ordered, others = band[:held_out][order], band[held_out:]
    places = np.searchsorted(ordered, others)
    for distance in range(min(_FULL_BUCKET, held_out)):
        inside = places + distance < held_out
        near = np.minimum(places + distance, held_out - 1)
        same = inside & (ordered[near] == others) & (others != 0)
        if not same.any():
            return
        yield order[near[same]], np.flatnonzero(same) + held_out
