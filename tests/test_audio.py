"""Recordings on disk: decoded as librosa decodes them, at the rate that was asked for."""

from pathlib import Path

import numpy as np
import pytest

from mrl_jax.data.audio import load_clip
from mrl_jax.errors import MrlError

librosa = pytest.importorskip("librosa")
soundfile = pytest.importorskip("soundfile")

# librosa.load, the oracle, imports modules that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings(
    "ignore:'(aifc|audioop|sunau)' is deprecated:DeprecationWarning"
)
RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "fsdd" / "recordings"


def tone(rate: int, seconds: float = 0.3) -> np.ndarray:
    """Two tones below 4 kHz under a swell, so that the samples' order and rate matter."""
    time = np.arange(int(rate * seconds)) / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 3100 * time)
    return (wave * time / seconds).astype(np.float32)


def test_a_clip_at_the_right_rate_is_unchanged(tmp_path):
    samples = tone(16000)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    clip = load_clip(tmp_path / "a.wav", 16000)
    assert clip.dtype == np.float32
    np.testing.assert_array_equal(clip, samples)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_resampling_is_librosas(rate, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    clip = load_clip(path, 16000)
    expected, _ = librosa.load(path, sr=16000, mono=True)
    assert clip.dtype == np.float32
    assert abs(clip.size - 4800) <= 1
    np.testing.assert_allclose(clip, expected, atol=1e-5)
    default, default_rate = librosa.load(path)  # The trap: 22 050 Hz unless told.
    assert default_rate == 22050
    assert abs(default.size - clip.size) > 1000


def test_the_rate_asked_for_is_the_rate_given(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000, subtype="FLOAT")
    assert load_clip(tmp_path / "a.wav", 8000).size == 2400


def test_channels_are_mixed_evenly(tmp_path):
    left, right = tone(16000), tone(16000)[::-1]
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([left, right], 1), 16000, subtype="FLOAT")
    clip = load_clip(path, 16000)
    assert clip.ndim == 1
    np.testing.assert_allclose(clip, (left + right) / 2, atol=1e-7)
    assert np.abs(clip - left).max() > 0.1


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.flac", {}, 1e-4),
        ("a.ogg", {}, 0.1),
        ("a.mp3", {}, 0.1),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.1),
        ("a.WAV", {"format": "WAV"}, 1e-4),
    ],
)
def test_other_formats_decode(name, options, tolerance, tmp_path):
    samples = tone(16000, 1.0)
    soundfile.write(tmp_path / name, samples, 16000, **options)
    clip = load_clip(tmp_path / name, 16000)
    assert abs(clip.size - samples.size) <= 2400  # Lossy formats pad to whole frames.
    best = max(
        np.corrcoef(clip[shift : shift + 12000], samples[:12000])[0, 1]
        for shift in range(0, clip.size - 12000 + 1)
    )
    assert best > 1 - tolerance


def m4a(path: Path) -> None:
    path.write_bytes(b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00M4A mp42isom\x00" + bytes(2000))


def truncated_flac(path: Path) -> None:
    soundfile.write(path, tone(16000), 16000)
    path.write_bytes(path.read_bytes()[:30])


def truncated_wav(path: Path) -> None:
    soundfile.write(path, tone(16000), 16000)
    path.write_bytes(path.read_bytes()[:20])


UNREADABLE = {
    "clip.m4a": m4a,
    "cut.flac": truncated_flac,
    "cut.wav": truncated_wav,
    "empty.wav": lambda path: path.write_bytes(b""),
    "text.wav": lambda path: path.write_text("hello"),
    "random.ogg": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "text.mp3": lambda path: path.write_text("hello"),
    "headless.raw": lambda path: path.write_bytes(bytes(4000)),
    "noise.unknown": lambda path: path.write_bytes(bytes(range(256)) * 9),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_decoded_is_named(name, tmp_path):
    path = tmp_path / name
    UNREADABLE[name](path)
    with pytest.raises(MrlError) as error:
        load_clip(path, 16000)
    line = str(error.value)
    assert line.startswith(f"{path}: cannot be decoded as audio (")
    assert "Expected one of wav, flac, mp3, ogg, opus" in line
    assert "\n" not in line
    assert len(line) < 400


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(MrlError, match=r"a\.wav: no such file\. Check the path"):
        load_clip(tmp_path / "a.wav", 16000)
    with pytest.raises(MrlError, match="is a folder, expected a file"):
        load_clip(tmp_path, 16000)


def test_a_recording_of_no_samples_is_empty(tmp_path):
    # Whoever embeds it refuses it as shorter than a frame, with the frame's length.
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 8000)
    clip = load_clip(tmp_path / "a.wav", 16000)
    assert (clip.shape, clip.dtype) == ((0,), np.float32)


def test_nan_is_not_smeared_by_resampling(tmp_path):
    samples = tone(8000)
    samples[100] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    clip = load_clip(tmp_path / "a.wav", 16000)
    assert np.flatnonzero(np.isnan(clip)).tolist() == [100]


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="fsdd, real recordings, is not here")
def test_real_recordings_load_as_librosa_loads_them():
    paths = sorted(RECORDINGS.glob("*_0.wav"))[:20]
    assert len(paths) == 20
    for path in paths:
        clip = load_clip(path, 16000)
        expected, _ = librosa.load(path, sr=16000, mono=True)
        assert clip.shape == expected.shape
        np.testing.assert_allclose(clip, expected, atol=1e-5)
        assert clip.size == 2 * soundfile.info(path).frames
        assert clip.std() > 1e-3
