"""Which rows make up each batch: a pure function of seed and step."""

import contextlib
import dataclasses
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.data.batches.draws import Draws, draws_per_batch, weighted_batches
from mrl_jax.data.batches.mix import TaskMixConfig

GRID = 1600
"""Bucket sizes are whole tenths of a second at 16 kHz."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipBatchConfig:
    """How clips become batches, which are read ahead.

    Attributes:
        batch_size: clips in a step, over all devices of all hosts.
        num_buckets: clip lengths to pad to, and so shapes to compile.
        prefetch: batches made ahead by threads.
        workers: processes that make batches; 0 makes them in this one.
        mix: how often examples of each task are drawn.
    """

    batch_size: int = 16
    num_buckets: int = 4
    prefetch: int = 4
    workers: int = 0
    mix: TaskMixConfig = dataclasses.field(default_factory=TaskMixConfig)

    def __post_init__(self) -> None:
        if self.prefetch < 1 or self.workers < 0:
            both = f"data.batch.prefetch is {self.prefetch} and data.batch.workers {self.workers}"
            raise MrlError(f"{both}, expected 1 or more, and 0 or more")


class BatchPlan:
    """Which examples stand in which batch.

    In an epoch each example is used at most once: those left over in a bucket move to
    the next longer one, and fewer than a batch (of each task, where batches keep to
    one) are left out, others in each epoch.

    With `draws` an epoch has as many batches, and draws each example as often as its weight says,
    rounded up or down, others up in each epoch; no example is twice in a batch. Where batches keep
    to one task, each task has as many batches as its weights say, to within one.

    Args:
        num_samples: [examples], length of each clip.
        groups: [examples], the task's number where batches keep to one; else zeros.
        batch_size: examples in a batch.
        num_buckets: lengths to pad to.
        seed: of the order.
        draws: how often each example is drawn; all alike without.

    Attributes:
        seed: as it was given.
        sizes: samples that the clips of each bucket are padded to, ascending.
        bucket_of: [examples], the shortest bucket that holds each example.
        batches_per_epoch: the same in every epoch.

    Raises:
        MrlError: fewer examples than a batch; an example that would be drawn more than once a
            batch.
    """

    def __init__(
        self,
        num_samples: HostArray,
        groups: HostArray,
        *,
        batch_size: int,
        num_buckets: int,
        seed: int,
        draws: Draws | None = None,
    ):
        for name, value in (("batch_size", batch_size), ("num_buckets", num_buckets)):
            if value < 1:
                raise MrlError(f"{name} is {value}, expected 1 or more")
        self.batch_size, self.seed, self._groups, self._draws = batch_size, seed, groups, draws
        counts = np.bincount(groups) if draws is None else np.asarray([len(groups)])
        self.batches_per_epoch = int((counts // batch_size).sum())
        if not self.batches_per_epoch:
            least = f"{batch_size} of one batch" + (" in one task" if len(counts) > 1 else "")
            problem = f"there are {len(num_samples)} examples, expected at least the {least}"
            raise MrlError(problem, hint="lower data.batch.batch_size, or bring more examples")
        if draws is not None:
            often = draws_per_batch(draws.weights, groups, batch_size).max()
            if often > 1 + 1e-9:
                problem = f"an example would be {often:.1f} times in each batch of {batch_size}"
                raise MrlError(problem, hint="lower data.batch.batch_size, or the largest weights")
        shares = np.arange(1, num_buckets + 1) / num_buckets
        quantiles = np.quantile(num_samples, shares, method="higher")
        self.sizes = np.unique(-(-quantiles // GRID) * GRID).astype(np.int64)
        self.bucket_of = np.searchsorted(self.sizes, num_samples)
        self._epoch: tuple[int, list[tuple[int, HostArray]]] | None = None

    def __call__(self, step: int) -> tuple[int, HostArray]:
        """The bucket of batch `step`, and its examples [batch_size]."""
        epoch, place = divmod(step, self.batches_per_epoch)
        # Threads at the turn of an epoch may overwrite the cache: read it once.
        cached = self._epoch
        if cached is None or cached[0] != epoch:
            cached = self._epoch = epoch, self._batches(epoch)
        return cached[1][place]

    def _batches(self, epoch: int) -> list[tuple[int, HostArray]]:
        rng = np.random.default_rng((self.seed, epoch))
        if self._draws is not None:
            return weighted_batches(
                self._draws,
                self._groups,
                self.bucket_of,
                batch_size=self.batch_size,
                batches=self.batches_per_epoch,
                rng=rng,
            )
        batches: list[tuple[int, HostArray]] = []
        for group in range(int(self._groups.max()) + 1):
            left = np.zeros(0, np.int64)
            for bucket in range(len(self.sizes)):
                here = np.flatnonzero((self._groups == group) & (self.bucket_of == bucket))
                pool = np.concatenate((left, rng.permutation(here)))
                whole = len(pool) // self.batch_size * self.batch_size
                # What came from a shorter bucket goes first: nothing waits for long.
                batches += [
                    (bucket, pool[start : start + self.batch_size])
                    for start in range(0, whole, self.batch_size)
                ]
                left = pool[whole:]
        order = rng.permutation(len(batches))
        return [batches[place] for place in order]


@checked
def read_batches(source: Any, *, start: int, config: ClipBatchConfig) -> Generator[Any, None, None]:
    """Batches of a `BatchSource` or `CtcSource` from step `start` on, made ahead by Grain.

    Closing the generator ends its threads or processes.
    """
    require("grain", by="reading batches")
    import absl.flags
    import grain

    if not absl.flags.FLAGS.is_parsed():
        absl.flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags.
    options = grain.ReadOptions(
        num_threads=min(2, config.prefetch), prefetch_buffer_size=config.prefetch
    )
    batches = grain.MapDataset.source(source)[start:].to_iter_dataset(options)
    if config.workers:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers))
    with contextlib.closing(iter(batches)) as iterator:
        yield from iterator


@checked
def sizes_by_bucket(lengths: HostArray, plan: BatchPlan) -> list[int]:
    """Tokens or frames to pad to: eights, and enough for every shorter bucket's as well."""
    longest = np.zeros(len(plan.sizes), np.int64)
    np.maximum.at(longest, plan.bucket_of, lengths)
    return [int(-(-size // 8) * 8) for size in np.maximum.accumulate(longest)]


def identities(keys: Iterable[Sequence[Any]]) -> HostArray:
    """[N] int32: equal numbers for equal keys, which are strings or token ids."""
    numbers: dict[tuple[Any, ...], int] = {}
    return np.asarray([numbers.setdefault(tuple(key), len(numbers)) for key in keys], np.int32)
