"""What happens to a training clip between the data set and a batch."""

import dataclasses
from collections.abc import Callable

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.data.audio.augment import Augment


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTransform:
    """Augmentation, and what the tower wants of its input.

    Attributes:
        prepare: applied to each clip last, `normalize_clip` where the tower wants it.
        min_samples: samples of the shortest clip that the tower takes; one that `augment` makes
            shorter is padded to it.
        augment: changes a clip; its randomness is a function of (seed, step, row), so that a
            resumed run gets the same samples.
        stretch: the most that `augment` makes a clip longer by.
    """

    prepare: Callable[[HostArray], HostArray] | None = None
    min_samples: int = 1
    augment: Augment | None = None
    stretch: float = 1.0

    def stretched(self, num_samples: HostArray) -> HostArray:
        """[N] int64, the most samples that clips of `num_samples` [N] have afterwards."""
        return np.ceil(np.asarray(num_samples) * self.stretch).astype(np.int64)

    def read(
        self,
        clip: Callable[[int], HostArray],
        rows: HostArray,
        size: int,
        key: tuple[int, int, int],
    ) -> tuple[HostArray, HostArray]:
        """Some clips, changed, prepared and padded with zeros, and the length of each.

        Args:
            clip: samples [S] of an example by its number.
            rows: [B], the numbers of the examples.
            size: samples to pad or cut to.
            key: seed, step, and the place in the batch of the first row: of the augmentation.

        Returns:
            [B, size] float32 and [B] int32.
        """
        samples = np.zeros((len(rows), size), np.float32)
        lengths = np.zeros(len(rows), np.int32)
        seed, step, start = key
        for row, index in enumerate(rows):
            one = clip(int(index))
            if self.augment is not None:
                one = self.augment(one, np.random.default_rng((seed, step, start + row)))[:size]
                one = np.pad(one, (0, max(self.min_samples - len(one), 0)))
            if self.prepare is not None:
                one = self.prepare(one)
            samples[row, : len(one)], lengths[row] = one, len(one)
        return samples, lengths
