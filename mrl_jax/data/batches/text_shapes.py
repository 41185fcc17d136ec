"""The few shapes that batches of pairs of texts are padded to: each is a step to compile."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable

SHORTEST = 16
MOST_SHAPES = 24
Shape = tuple[int, ...]
"""Tokens that queries and documents are padded to; of packed batches, the number of rows."""


def padded_tokens(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, …: few shapes, and at most half of it padding."""
    size = SHORTEST
    while size < length:
        if size * 3 // 2 >= length:
            return size * 3 // 2
        size *= 2
    return size


def few_shapes(
    longest: Iterable[Shape],
    limit: Shape,
    *,
    most: int = MOST_SHAPES,
    rounded: Callable[[int], int] = padded_tokens,
) -> list[Shape]:
    """Shapes that hold all batches of an epoch, the smallest first, and any other batch as well.

    Queries and documents of many lengths, and prompts of many lengths before them, make more pairs
    of padded lengths than are worth compiling. Those that add the least padding are joined.

    Args:
        longest: of each batch of the epoch, the tokens of its longest query and document.
        limit: of the longest query and document of all; only batches that hold both in no other
            shape, which some later epoch may have, are padded so far.
        most: shapes at most, besides that for the limit.
        rounded: the size that holds so many, before shapes are joined.
    """
    counts = Counter(tuple(map(rounded, needed)) for needed in longest)
    while len(counts) > most:
        one, other = min(
            itertools.combinations(sorted(counts), 2), key=lambda pair: _added(counts, *pair)
        )
        number = counts.pop(one) + counts.pop(other)
        counts[_join(one, other)] += number
    whole = tuple(map(rounded, limit))
    return sorted({*counts, whole}, key=lambda shape: (sum(shape), shape))


def fitting_shape(shapes: list[Shape], *needed: int) -> Shape:
    """The smallest of `few_shapes` that holds so much on each of its axes."""
    return next(s for s in shapes if all(n <= size for n, size in zip(needed, s, strict=True)))


def _join(one: Shape, other: Shape) -> Shape:
    return tuple(map(max, one, other))


def _added(counts: Counter[Shape], one: Shape, other: Shape) -> int:
    """Tokens of padding that joining two shapes adds to an epoch, in each row."""
    joined = sum(_join(one, other))
    return sum(counts[shape] * (joined - sum(shape)) for shape in (one, other))
