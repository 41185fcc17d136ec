"""Samples to FLAC bytes."""

import io

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.data.audio.verdict import FULL_SCALE


def quantize(clip: HostArray) -> HostArray:
    """[S] floats to [S] int16, rounded to 1/32768 and limited to full scale."""
    scaled = np.rint(np.asarray(clip, np.float64) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def flac_bytes(samples: HostArray, sample_rate: int) -> bytes:
    """[S] int16 as a FLAC file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
