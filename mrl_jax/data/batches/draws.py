"""Which examples stand in which batch, where some are drawn more often than others."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from mrl_jax.core.array_types import HostArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws:
    """How often each example is drawn, relative to the others.

    Attributes:
        weights: [examples] float64, above 0.
        strata: [examples] int64: an epoch draws as many examples of each number as their weights
            say, to within one; of equal weights within a number.
    """

    weights: HostArray
    strata: HostArray


def draws_per_batch(weights: HostArray, groups: HostArray, batch_size: int) -> HostArray:
    """[examples] float64, how often each is drawn in a batch of its group on average.

    Args:
        weights: [examples], of each.
        groups: [examples], numbers from 0 on: which of them share batches.
        batch_size: examples in a batch.
    """
    return batch_size * weights / np.bincount(groups, weights)[groups]


def weighted_batches(
    draws: Draws,
    groups: HostArray,
    bucket_of: HostArray,
    *,
    batch_size: int,
    batches: int,
    rng: np.random.Generator,
) -> list[tuple[int, HostArray]]:
    """The batches of an epoch, each the number of its bucket and its examples [batch_size].

    An example is drawn as often as its weight says, rounded up or down, and never twice in one
    batch. Which examples are rounded up is drawn by `rng`.

    Args:
        draws: how often examples are drawn; none more than once a batch, by `draws_per_batch`.
        groups: [examples], numbers from 0 on: which of them share batches.
        bucket_of: [examples], the shortest bucket that holds each.
        batch_size: examples in a batch.
        batches: how many there are.
        rng: of the epoch.
    """
    of_groups = np.bincount(groups, draws.weights)
    counts = _rounded(batches * of_groups / of_groups.sum(), rng)
    drawn: list[tuple[int, HostArray]] = []
    for group, count in enumerate(counts.tolist()):
        rows = rng.permutation(np.flatnonzero(groups == group))
        rows = rows[np.argsort(draws.strata[rows], kind="stable")]
        expected = count * draws_per_batch(draws.weights, groups, batch_size)[rows]
        items = np.repeat(rows, _rounded(np.minimum(expected, count), rng))
        # Clips of similar length share a batch.
        items = rng.permutation(items)
        items = items[np.argsort(bucket_of[items], kind="stable")].reshape(count, batch_size)
        _part_copies(items, bucket_of)
        drawn += [(int(bucket_of[batch].max()), batch) for batch in items]
    return [drawn[place] for place in rng.permutation(len(drawn))]


def _rounded(expected: HostArray, rng: np.random.Generator) -> HostArray:
    """Whole numbers, each of `expected` rounded up or down, with the same sum, itself rounded.

    That holds for every run of neighbours too, to within one ("systematic sampling"), and on
    average each number is what was expected.
    """
    whole = np.floor(expected + 1e-9)
    rest = np.clip(expected - whole, 0.0, 1.0)
    missing = round(float(expected.sum() - whole.sum()))
    if missing <= 0:
        return whole.astype(np.int64)
    reached = np.minimum(np.cumsum(rest) * (missing / rest.sum()), missing)
    reached[-1] = missing
    steps = np.floor(reached + rng.random())
    return (whole + np.diff(steps, prepend=0.0)).astype(np.int64)


def _part_copies(batches: HostArray, bucket_of: HostArray) -> None:
    """Exchange examples between batches [batches, batch_size] until none has one twice.

    It ends: each exchange lowers the sum of squares of how often examples stand in batches.
    """
    ordered = np.sort(batches, axis=1)
    for number in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)).tolist():
        while (place := _place_of_copy(batches[number])) is not None:
            example = batches[number, place]
            other = next(o for o in _nearest(number, len(batches)) if example not in batches[o])
            there = _place_to_take(batches[other], batches[number], example, bucket_of)
            batches[number, place], batches[other, there] = batches[other, there], example


def _place_of_copy(batch: HostArray) -> int | None:
    """A place in a batch whose example stands at an earlier one too."""
    _, first = np.unique(batch, return_index=True)
    if len(first) == len(batch):
        return None
    return int(np.setdiff1d(np.arange(len(batch)), first)[0])


def _nearest(number: int, count: int) -> Iterator[int]:
    """All other numbers below `count`, the nearest first: batches of similar lengths."""
    for apart in range(1, count):
        yield from (o for o in (number - apart, number + apart) if 0 <= o < count)


def _place_to_take(
    other: HostArray, batch: HostArray, example: np.integer, bucket_of: HostArray
) -> int:
    """The place in `other` of what `batch` has fewer of, nearest in length to `example`."""
    more = (other[:, None] == other).sum(axis=1) > (other[:, None] == batch).sum(axis=1)
    places = np.flatnonzero(more)
    apart = np.abs(bucket_of[other[places]] - bucket_of[example])
    # What the batch does not have at all, before what it has once.
    present = np.isin(other[places], batch)
    return int(places[np.lexsort((apart, present))[0]])
