"""How the claims' recognisers hear each training clip: another rate, channel and noise."""

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.data.audio import augment
from mrl_jax.data.audio.augment import AugmentConfig

SPEEDS = (0.88, 1.14)
CHANNEL = AugmentConfig(
    reverb_probability=0.1, mask_probability=0.0, noise_probability=0.4, snr_db=(8.0, 40.0)
)
RATE = 16_000


def vary(clip: HostArray, rng: np.random.Generator) -> HostArray:
    """The same words, faster or slower, through another channel; at most 1 / 0.88 longer."""
    changed = augment.change_speed(clip, augment.draw_factor(rng, SPEEDS))
    return augment.augment_channel(changed, rng, CHANNEL, RATE)
