"""Recordings on disk to mono float32 samples."""

from pathlib import Path

import numpy as np

from mrl_jax.array_types import HostArray
from mrl_jax.errors import MrlError, existing_file

DECODABLE = ("wav", "flac", "mp3", "ogg", "opus")


def load_clip(path: str | Path, sample_rate: int) -> HostArray:
    """Decode a recording, mix it down to mono and resample it (soxr, high quality).

    Args:
        path: a file that libsndfile reads: wav, flac, mp3, ogg or opus.
        sample_rate: samples a second of the result.

    Returns:
        [S] float32.

    Raises:
        MrlError: no such file, not audio, truncated before its first sample; librosa
            is not installed.
    """
    path = existing_file(Path(path), mend="check the path of the recording")
    try:
        import librosa
        import soundfile
    except ImportError as error:
        raise MrlError(
            f"reading audio takes {error.name}, which is not installed",
            where=path,
            mend="install the extra: `pip install 'mrl_jax[audio]'`",
        ) from error
    try:
        with soundfile.SoundFile(path) as file:
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: headless .raw
        raise MrlError(
            f"cannot be decoded as audio ({str(error).rstrip('.').splitlines()[-1][:120]})",
            where=path,
            mend=f"expected one of {', '.join(DECODABLE)}; convert it, or leave it out",
        ) from error
    mono = samples.mean(axis=1)
    if rate == sample_rate or not mono.size or not np.isfinite(mono).all():
        return mono  # NaN would spread over its neighbours: the caller names it as it is.
    return librosa.resample(mono, orig_sr=rate, target_sr=sample_rate, res_type="soxr_hq")
