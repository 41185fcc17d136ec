"""Small recordings for the tests of duplicates and leakage."""

from pathlib import Path

import numpy as np
import soundfile

from mrl_jax.data.audio.encode import quantize

RATE = 16_000


def write_clips(folder: Path) -> dict[str, str]:
    """Files by name: a sound as wav, flac and copied, another sound, and some that begin silent."""
    rng = np.random.default_rng(0)
    sound, other = (quantize(rng.uniform(-0.3, 0.3, RATE)) for _ in range(2))
    silence = np.zeros(RATE // 2, np.int16)
    files = {
        "a.wav": sound,
        "b.flac": sound,
        "c.wav": sound,
        "other.wav": other,
        "longer.wav": np.concatenate([sound, other]),
        "silent1.wav": np.concatenate([silence, sound]),
        "silent2.flac": np.concatenate([silence, sound]),
        "silent3.wav": np.concatenate([silence, other]),
    }
    for name, samples in files.items():
        soundfile.write(folder / name, samples, RATE)
    (folder / "broken.wav").write_bytes(b"RIFF")
    return {path.name: str(path) for path in folder.iterdir()}
