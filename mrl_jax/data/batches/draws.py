"""Which examples stand in which batch, where some are drawn more often than others."""

import bisect
import dataclasses

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
        _deal(items, bucket_of, rng)
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
    # The sum may be rounded up to the next whole number.
    steps = np.minimum(np.floor(reached + rng.random()), missing)
    return (whole + np.diff(steps, prepend=0.0)).astype(np.int64)


def _deal(batches: HostArray, bucket_of: HostArray, rng: np.random.Generator) -> None:
    """Spread the copies of an example over the batches [batches, batch_size] of its bucket.

    Like cards: what is next to each other goes to different batches, in each round in another
    order. What is left for `_part_copies` is little.
    """
    first, last = bucket_of[batches[:, 0]], bucket_of[batches[:, -1]]
    rank = rng.permutation(len(bucket_of))
    for bucket in np.unique(first[first == last]).tolist():
        own = np.flatnonzero((first == bucket) & (last == bucket))
        items = batches[own].ravel()
        items = items[np.argsort(rank[items], kind="stable")]
        batches[own] = rng.permuted(items.reshape(-1, len(own)), axis=1).T


def _part_copies(batches: HostArray, bucket_of: HostArray) -> None:
    """Exchange examples between batches [batches, batch_size] until none has one twice.

    It ends: each exchange lowers the sum of squares of how often examples stand in batches.
    """
    ordered = np.sort(batches, axis=1)
    todo = np.unique(ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]]).tolist()
    if not todo:
        return
    stands = _Places(batches)
    while todo:
        example = todo.pop()
        held = stands.of(example)
        free = np.setdiff1d(np.arange(len(batches)), held).tolist()
        batch_of, counts = np.unique(held, return_counts=True)
        for number in np.repeat(batch_of, counts - 1).tolist():
            other = free.pop(_nearest(free, number))
            there = _place_to_take(batches[other], batches[number], bucket_of, example)
            place = int(np.flatnonzero(batches[number] == example)[-1])
            taken = int(batches[other, there])
            if taken in batches[number]:
                todo.append(taken)
            batches[number, place], batches[other, there] = taken, example
            stands.move(example, number, other)
            stands.move(taken, other, number)


class _Places:
    """In which batches each example stands, while they are exchanged.

    Args:
        batches: [batches, batch_size], as they are before the first exchange.
    """

    def __init__(self, batches: HostArray):
        flat = batches.ravel()
        self._order = np.argsort(flat, kind="stable")
        self._sorted, self._size = flat[self._order], batches.shape[1]
        self._now: dict[int, list[int]] = {}

    def of(self, example: int) -> list[int]:
        """The numbers of its batches, one as often as it stands there."""
        if example not in self._now:
            first, end = np.searchsorted(self._sorted, (example, example + 1))
            self._now[example] = (self._order[first:end] // self._size).tolist()
        return self._now[example]

    def move(self, example: int, old: int, new: int) -> None:
        """It left the batch `old` for the batch `new`."""
        own = self.of(example)
        own[own.index(old)] = new


def _nearest(numbers: list[int], number: int) -> int:
    """The place in ascending numbers of the one that is nearest: a batch of similar lengths."""
    above = bisect.bisect(numbers, number)
    near = [place for place in (above - 1, above) if 0 <= place < len(numbers)]
    return min(near, key=lambda place: abs(numbers[place] - number))


def _place_to_take(other: HostArray, batch: HostArray, bucket_of: HostArray, example: int) -> int:
    """The place in `other` of what `batch` has fewer of, nearest in length to `example`."""
    # What the batch does not have at all, before what it has once.
    places = np.flatnonzero(~np.isin(other, batch))
    if not len(places):
        more = (other[:, None] == other).sum(axis=1) > (other[:, None] == batch).sum(axis=1)
        places = np.flatnonzero(more)
    return int(places[np.argmin(np.abs(bucket_of[other[places]] - bucket_of[example]))])
