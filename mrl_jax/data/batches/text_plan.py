"""Which pairs of texts make up each batch: a pure function of seed and step."""

from collections.abc import Mapping, Sequence

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError

POOL = 8
"""Batches whose pairs are sorted by length together."""


class PairPlan:
    """Batches of pairs of similar lengths, each of one task where tasks are given.

    Every task has epochs of its own, in which each of its pairs is used at most once: fewer than a
    batch are left out, others in each epoch.

    Args:
        lengths: [pairs], tokens of each.
        tasks: [pairs], the task of each, where batches keep to one; None where they do not.
        batch_size: pairs in a batch.
        weights: how often the batches of each task come, relative to one another; a task of
            weight 0 never comes. By default as often as it has batches.
        seed: of the order.

    Attributes:
        batches_per_epoch: whole batches of all pairs whose tasks have a weight.
        rows: numbers of those pairs.

    Raises:
        MrlError: fewer pairs than a batch, in all or of a task; a task without a weight, or a
            weight without a task.
    """

    def __init__(
        self,
        lengths: Sequence[int] | HostArray,
        tasks: Sequence[str] | None = None,
        *,
        batch_size: int,
        weights: Mapping[str, float] | None = None,
        seed: int,
    ):
        self._lengths, self._batch_size, self._seed = np.asarray(lengths), batch_size, seed
        self._rows = {"": np.arange(len(self._lengths))}
        if tasks is not None:
            names, numbers = np.unique(np.asarray(tasks, object), return_inverse=True)
            self._rows = {
                str(name): np.flatnonzero(numbers == number) for number, name in enumerate(names)
            }
        if weights:
            _check_weights(weights, self._rows)
            self._rows = {task: rows for task, rows in self._rows.items() if weights[task]}
        for task, rows in self._rows.items():
            if len(rows) < batch_size:
                kind = "pairs of texts" if tasks is None else f"pairs of the task {task!r}"
                lower = "lower data.batch.batch_size (with optim.accumulation_steps)"
                raise MrlError(
                    f"there are {len(rows)} {kind}, expected at least the {batch_size} of one "
                    "batch",
                    hint=f"{lower} to {len(rows)} or less, or bring more pairs",
                )
        sizes = {task: len(rows) // batch_size for task, rows in self._rows.items()}
        self.batches_per_epoch = sum(sizes.values())
        self.rows = np.concatenate(list(self._rows.values()))
        self._sizes = sizes
        self._weights = {task: weights[task] if weights else sizes[task] for task in sizes}
        self._turns: list[tuple[str, int]] = []
        self._counts = dict.fromkeys(sizes, 0)
        self._epochs: dict[str, tuple[int, list[HostArray]]] = {}

    def __call__(self, step: int) -> HostArray:
        """Rows [batch_size] of batch `step`, counted from 0."""
        task, number = self.turn(step)
        epoch, place = divmod(number, self._sizes[task])
        if task not in self._epochs or self._epochs[task][0] != epoch:
            rows = self._rows[task]
            # Tasks of as many pairs are not drawn in the same order.
            key = (list(self._rows).index(task),) if len(self._rows) > 1 else ()
            drawn = alike_batches(self._lengths[rows], self._batch_size, self._seed, epoch, *key)
            self._epochs[task] = epoch, [rows[batch] for batch in drawn]
        return self._epochs[task][1][place]

    def turn(self, step: int) -> tuple[str, int]:
        """The task of batch `step`, and how many batches of that task come before it.

        The next task is always the one that is furthest behind its weight, so that after any
        number of steps each has come as often as its weight says, to within one batch of more.
        """
        if len(self._rows) == 1:
            return next(iter(self._rows)), step
        total, counts = sum(self._weights.values()), self._counts
        while len(self._turns) <= step:
            after = len(self._turns) + 1
            behind = {
                task: weight * after - total * counts[task]
                for task, weight in self._weights.items()
            }
            task = max(behind, key=behind.__getitem__)
            self._turns.append((task, counts[task]))
            counts[task] += 1
        return self._turns[step]


def alike_batches(
    lengths: Sequence[int] | HostArray, batch_size: int, *key: int
) -> list[HostArray]:
    """Rows of every batch of an epoch, of similar lengths: sorted within each `POOL` batches.

    Every row is there at most once; fewer than `batch_size` are left out. The order is a
    function of `key`: the seed, the epoch and whatever else tells one drawing from another.
    """
    lengths = np.asarray(lengths)
    rng = np.random.default_rng(key)
    # Before they are sorted: else the longest of the last pool would be left out.
    order = rng.permutation(len(lengths))[: len(lengths) // batch_size * batch_size]
    batches: list[HostArray] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += list(pool.reshape(-1, batch_size))
    return [batches[place] for place in rng.permutation(len(batches))]


def _check_weights(weights: Mapping[str, float], tasks: Mapping[str, HostArray]) -> None:
    """Raises an `MrlError` unless weights and tasks have the same names."""
    for name in sorted(tasks.keys() - weights.keys()):
        raise MrlError(
            f"data.batch.task_weights has none for the task {name!r}",
            hint=f"set data.batch.task_weights.{name}=, 0 to leave its pairs out",
        )
    for name in sorted(weights.keys() - tasks.keys()):
        raise MrlError(
            f"data.batch.task_weights has one for {name!r}, and no pair is of that task",
            hint=f"write one of {', '.join(map(repr, sorted(tasks)))}",
        )
