"""Batches of clips and their transcripts, as a pure function of (seed, step)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import host_rows
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.augment import AugmentConfig, mask_frequency, mask_time
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.plan import BatchPlan, ClipBatchConfig, sizes_by_bucket


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcBatch:
    """Clips beside their transcripts, row by row. As in `Batch`, fields carry no shapes.

    Attributes:
        samples: [B, S] float32, clips padded with zeros, normalised as the tower wants.
        lengths: [B] int32, samples of each clip.
        labels: [B, L] int32, token ids of the transcripts, padded with the blank.
        counts: [B] int32, ids that count in each row.
    """

    samples: Any
    lengths: Any
    labels: Any
    counts: Any


CtcBatchConfig = ClipBatchConfig
"""How clips and their transcripts become batches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What a training clip is silenced in, after SpecAugment (arXiv 1904.08779).

    Attributes:
        time_masks: stretches of time.
        time_seconds: the longest of them.
        frequency_masks: bands of frequency.
        frequency_share: of the mel scale, the widest of them.
    """

    time_masks: int = 2
    time_seconds: float = 0.1
    frequency_masks: int = 2
    frequency_share: float = 0.15

    def __post_init__(self) -> None:
        if self.time_masks < 0 or self.frequency_masks < 0:
            both = f"{self.time_masks} and masks.frequency_masks {self.frequency_masks}"
            raise MrlError(f"masks.time_masks is {both}, expected 0 or more")
        if self.time_seconds < 0 or not 0 <= self.frequency_share < 1:
            both = f"{self.time_seconds:g} and masks.frequency_share {self.frequency_share:g}"
            raise MrlError(f"masks.time_seconds is {both}, expected 0 or more, and 0 up to 1")


def mask_clip(
    clip: HostArray, rng: np.random.Generator, config: MaskConfig, sample_rate: int
) -> HostArray:
    """A clip [S] with some stretches and bands silenced; same length."""
    for _ in range(config.frequency_masks):
        clip = mask_frequency(clip, rng, widest=config.frequency_share, sample_rate=sample_rate)
    times, seconds = config.time_masks, (0.0, config.time_seconds)
    stretches = AugmentConfig(mask_probability=1.0, num_masks=times, mask_seconds=seconds)
    return mask_time(clip, rng, stretches, sample_rate)


class CtcSource:
    """Batches by step number; safe to read from several threads and processes.

    Args:
        clip: samples [S] of an example by its number.
        labels: [examples, L] ids of each transcript, padded with `blank`.
        counts: [examples], ids that count.
        plan: which examples stand in which batch; its seed is that of augmentation too.
        transform: of each clip.
        shard: (this host's number, number of hosts): whose rows of each batch are given.
    """

    def __init__(
        self,
        clip: Callable[[int], HostArray],
        labels: HostArray,
        counts: HostArray,
        plan: BatchPlan,
        *,
        transform: ClipTransform,
        shard: tuple[int, int] = (0, 1),
    ):
        self._clip, self._labels, self._counts = clip, labels, counts
        self._transform, self._shard, self.plan = transform, shard, plan
        self._label_sizes = sizes_by_bucket(np.maximum(counts, 1), self.plan)

    def __len__(self) -> int:
        return 1 << 40  # Epochs follow one another without end.

    def __getitem__(self, step: int) -> CtcBatch:
        bucket, everyone = self.plan(int(step))
        mine = host_rows(len(everyone), self._shard)
        rows = everyone[mine]
        size, key = int(self.plan.sizes[bucket]), (self.plan.seed, int(step), mine.start)
        samples, lengths = self._transform.read(self._clip, rows, size, key)
        labels = np.zeros((len(rows), self._label_sizes[bucket]), np.int32)
        width = min(labels.shape[1], self._labels.shape[1])
        labels[:, :width] = self._labels[rows, :width]
        return CtcBatch(samples=samples, lengths=lengths, labels=labels, counts=self._counts[rows])
