"""Samples to the bytes of a file: FLAC, or WAV as they are."""

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


def wav_bytes(samples: HostArray, sample_rate: int) -> bytes:
    """Samples as a WAV file that holds them unchanged: floats of 32 bits, or whole numbers.

    Args:
        samples: [S], or [channels, S]; floats from -1 to 1, or int16 or int32 at full scale.
        sample_rate: samples a second.

    Raises:
        ValueError: another shape, or another kind of number.
    """
    from scipy.io import wavfile  # libsndfile would write the time of day into the file.

    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise ValueError(f"{samples.dtype} of shape {samples.shape}")
    if samples.dtype.name not in ("int16", "int32"):
        samples = samples.astype(np.float32)
    file = io.BytesIO()
    wavfile.write(file, sample_rate, samples.T)
    return file.getvalue()
