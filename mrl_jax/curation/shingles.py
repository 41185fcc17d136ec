"""Runs of characters or words as hashes, of many texts at once: what texts are compared by."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt64

from mrl_jax.core.array_types import HostArray

Unit = Literal["characters", "words"]
_STEP = np.uint64(0x9E3779B97F4A7C15)


def shingles(
    texts: Sequence[str], size: int, unit: Unit = "characters"
) -> tuple[UInt64[HostArray, " M"], Int64[HostArray, " M"]]:
    """A hash of 64 bits of every run of `size` characters or words, and the place of its text.

    A text shorter than a run is one run; an empty text has none. Hashes are the same in every
    process and for every division of the texts.
    """
    codes, lengths = _words(texts) if unit == "words" else _characters(texts)
    starts = np.cumsum(lengths) - lengths
    counts = np.where(lengths > 0, np.maximum(lengths - size + 1, 1), 0)
    owners = np.repeat(np.arange(len(texts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    place, left = starts[owners] + within, lengths[owners] - within
    values = np.zeros(len(place), np.uint64)
    padded = np.concatenate([codes, np.zeros(size, np.uint64)])
    for step in range(size):
        # Behind the end of a text there is nothing, which 0 stands for: no character is 0.
        code = padded[place + step] if step == 0 else np.where(left > step, padded[place + step], 0)
        values = mixed(values + code)
    return values, owners


def _characters(texts: Sequence[str]) -> tuple[UInt64[HostArray, " N"], Int64[HostArray, " B"]]:
    joined = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    return joined.astype(np.uint64) + np.uint64(1), np.array([len(t) for t in texts], np.int64)


def _words(texts: Sequence[str]) -> tuple[UInt64[HostArray, " N"], Int64[HostArray, " B"]]:
    """Words by a hash of their characters, so that they are the same in every block of texts."""
    split = [text.split() for text in texts]
    codes, lengths = _characters([word for words in split for word in words])
    values = np.zeros(len(lengths), np.uint64)
    starts = np.cumsum(lengths) - lengths
    for step in range(int(lengths.max(initial=0))):
        longer = lengths > step
        values[longer] = mixed(values[longer] + codes[starts[longer] + step])
    return values | np.uint64(1), np.array([len(words) for words in split], np.int64)


def mixed(values: UInt64[HostArray, " M"]) -> UInt64[HostArray, " M"]:
    """Numbers whose every bit depends on every bit of those given, one to one.

    The finaliser of SplitMix64 (Steele et al. 2014).
    """
    values = values + _STEP
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
