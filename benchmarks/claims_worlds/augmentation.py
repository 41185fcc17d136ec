"""How training recordings vary from step to step: another rate, channel and noise."""

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.data.audio import augment
from mrl_jax.data.audio.augment import AugmentConfig

SPEEDS = (0.88, 1.14)
STRETCH = 1 / SPEEDS[0]
"""The most that a recording becomes longer by."""
CHANNEL = AugmentConfig(
    reverb_probability=0.1, mask_probability=0.0, noise_probability=0.4, snr_db=(8.0, 40.0)
)


def vary_16khz(clip: HostArray, rng: np.random.Generator) -> HostArray:
    """The same words [S], faster or slower, through another channel."""
    return _vary(clip, rng, 16_000)


def vary_8khz(clip: HostArray, rng: np.random.Generator) -> HostArray:
    """The same at 8 kHz."""
    return _vary(clip, rng, 8_000)


def _vary(clip: HostArray, rng: np.random.Generator, sample_rate: int) -> HostArray:
    changed = augment.change_speed(clip, augment.draw_factor(rng, SPEEDS))
    return augment.augment_channel(changed, rng, CHANNEL, sample_rate)
