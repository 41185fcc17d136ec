"""Damaged recordings: each is read or refused in one line, within seconds and little memory.

Small recordings of every container are damaged by seed. The peak of resident memory is measured
by the kernel (VmHWM, set back before the first input); a 0.3 s clip may not take 300 MB, whatever
its header says.
"""

import io
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mutate import LIMIT_SECONDS, counted, mutate_bytes, scaled

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import clip_seconds, decode_clip

pytest.importorskip("librosa")
soundfile = pytest.importorskip("soundfile")

RATE = 16000
SEED = 18
PEAK_MB = 300
FORMS = {
    "wav": {"format": "WAV"},
    "float wav": {"format": "WAV", "subtype": "FLOAT"},
    "adpcm wav": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "extensible wav": {"format": "WAVEX", "subtype": "PCM_24"},
    "rf64": {"format": "RF64"},
    "w64": {"format": "W64"},
    "flac": {"format": "FLAC"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
    "aiff": {"format": "AIFF"},
    "compressed aiff": {"format": "AIFF", "subtype": "ULAW"},
    "au": {"format": "AU", "endian": "BIG"},
    "caf": {"format": "CAF"},
    "alac caf": {"format": "CAF", "subtype": "ALAC_16"},
    "sphere": {"format": "NIST"},
}
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 999, 1000, 65535, 192000, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF, -1)


def recordings() -> dict[str, bytes]:
    """A voice-like clip of 0.3 s in every container, one and two channels."""
    rng, made = np.random.default_rng(SEED), {}
    time_s = np.arange(int(0.3 * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * 220 * time_s) + 0.05 * rng.standard_normal(time_s.size)
    for (name, options), channels in itertools.product(FORMS.items(), (1, 2)):
        samples = np.stack([wave, 0.5 * wave], 1)[:, :channels]
        file = io.BytesIO()
        soundfile.write(file, samples.astype(np.float32), RATE, **options)
        made[f"{name}, {channels}"] = file.getvalue()
    return made


def change_header(data: bytes, rng: np.random.Generator) -> bytes:
    """A number among the first 128 bytes replaced by another of 1 to 8 bytes, in either order."""
    width = int(rng.choice([1, 2, 4, 8]))
    number = NUMBERS[int(rng.integers(len(NUMBERS)))] % (1 << 8 * width)
    if rng.random() < 0.3:
        number = int(rng.integers(1 << 8 * min(width, 7)))
    order = "little" if rng.random() < 0.5 else "big"
    at = int(rng.integers(min(128, len(data) - width)))
    return data[:at] + number.to_bytes(width, order) + data[at + width :]


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    flipped = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 20))):
        flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def insert_block(data: bytes, rng: np.random.Generator) -> bytes:
    """Zeros, noise or a piece of the recording itself, put in anywhere."""
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 5000))
    blocks = (bytes(size), rng.bytes(size), data[:size])
    return data[:at] + blocks[int(rng.integers(3))] + data[at:]


def damaged(whole: dict[str, bytes], count: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged recordings, each made again by its number alone."""
    names = sorted(whole)
    kinds = (
        lambda data, rng: flip_bits(data, rng),
        lambda data, rng: data[: int(rng.integers(len(data)))],
        lambda data, rng: change_header(data, rng),
        lambda data, rng: change_header(change_header(data, rng), rng),
        lambda data, rng: insert_block(data, rng),
        lambda data, rng: mutate_bytes(data, rng),
        lambda data, rng: data[:200] + whole[names[int(rng.integers(len(names)))]][200:],
    )
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        name = names[number % len(names)]
        kind = int(rng.integers(len(kinds)))
        yield f"{number}: {name}, damage {kind}", kinds[kind](whole[name], rng)


def test_damaged_recordings_are_read_or_refused_in_one_line(tmp_path: Path):
    whole = recordings()
    for name, data in whole.items():
        assert decode_clip(data, RATE, name=name).size >= 0.3 * RATE
    resampled = decode_clip(whole["wav, 1"], 8000, name="warm")
    assert resampled.size == 2400
    path = tmp_path / "damaged.wav"
    slowest = 0.0
    with counted("audio decoder", peak_mb=PEAK_MB) as ask:
        for number, (name, data) in enumerate(damaged(whole, scaled(900))):
            begin = time.perf_counter()
            rate = 8000 if number % 3 else RATE
            clip = ask(name, lambda data=data, rate=rate: decode_clip(data, rate, name="x"))
            if isinstance(clip, np.ndarray):
                assert clip.size, name
                assert np.isfinite(clip).all(), name
            if number % 4 == 0:  # What a file holds is judged as its bytes are.
                path.write_bytes(data)
                again = ask(name, lambda rate=rate: decode_clip(path, rate, name="x"))
                assert type(again) is type(clip), name
                assert str(again) == str(clip), name
                seconds = ask(name, lambda data=data: clip_seconds(data, name="x"))
                assert isinstance(seconds, MrlError) or seconds >= 0, name
            slowest = max(slowest, time.perf_counter() - begin)
            assert slowest < LIMIT_SECONDS, name
