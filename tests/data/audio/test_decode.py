"""Recordings on disk: decoded as librosa decodes them, at the rate that was asked for."""

from pathlib import Path

import numpy as np
import pytest
from repository import SHARED_DATA

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import clip_seconds, decode_clip, load_clip

librosa = pytest.importorskip("librosa")
soundfile = pytest.importorskip("soundfile")

# librosa.load, the oracle, imports modules that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings(
    "ignore:'(aifc|audioop|sunau)' is deprecated:DeprecationWarning"
)
RECORDINGS = SHARED_DATA / "fsdd" / "recordings"


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
    default, default_rate = librosa.load(path)  # The trap: 22 050 Hz unless another is given.
    assert default_rate == 22050
    assert abs(default.size - clip.size) > 1000


def test_the_requested_rate_is_the_rate_given(tmp_path):
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


def test_common_failures_have_plain_words(tmp_path):
    words = {
        "clip.m4a": "(MPEG-4 audio, m4a, is not supported)",
        "empty.wav": "(the file is empty)",
        "text.wav": "(Format not recognised)",
    }
    for name, word in words.items():
        UNREADABLE[name](tmp_path / name)
        for source in (tmp_path / name, (tmp_path / name).read_bytes()):
            for read in (lambda *a, **k: decode_clip(a[0], 16000, **k), clip_seconds):
                with pytest.raises(MrlError) as error:
                    read(source, name="the clip")
                assert str(error.value).startswith(f"the clip: cannot be decoded as audio {word}")


@pytest.mark.parametrize("part", [0.9, 0.5])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.opus"])
def test_a_recording_without_its_end_is_refused(name, part, tmp_path):
    path = tmp_path / name
    options = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    noise = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    soundfile.write(path, tone(16000, 2.0) + noise, 16000, **options)
    whole = path.read_bytes()
    assert decode_clip(whole, 16000, name="x").size >= 32000
    path.write_bytes(whole[: int(len(whole) * part)])
    for source in (path, path.read_bytes()):
        with pytest.raises(MrlError, match="cannot be decoded as audio"):
            decode_clip(source, 16000, name="x")
    # What is asked for is there.
    if name == "a.wav":
        assert decode_clip(path, 16000, name="x", max_seconds=0.5).size == 8000


def test_an_ogg_cut_anywhere_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.ogg", tone(16000, 2.0), 16000)
    whole = (tmp_path / "a.ogg").read_bytes()
    last = whole.rindex(b"OggS")
    assert decode_clip(whole, 16000, name="x").size == 32000
    # At `last` itself nothing tells that a page is missing.
    for end in (last + 1, last + 3, last + 4, last + 26, last + 27, last + 30, len(whole) - 1):
        with pytest.raises(MrlError, match="cannot be decoded as audio"):
            decode_clip(whole[:end], 16000, name="x")


def test_streams_that_do_not_tell_their_length_are_whole(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000), 16000)
    whole = bytearray(path.read_bytes())
    start = whole.index(b"data") + 4
    for length in (0xFFFFFFFF, 0x7FFFFFFF):
        whole[start : start + 4] = length.to_bytes(4, "little")
        assert decode_clip(bytes(whole), 16000, name="x").size == 4800
    whole[start : start + 4] = (9602).to_bytes(4, "little")
    with pytest.raises(MrlError, match="the file is truncated: its end is missing"):
        decode_clip(bytes(whole), 16000, name="x")
    soundfile.write(tmp_path / "a.flac", tone(16000), 16000)
    flac = bytearray((tmp_path / "a.flac").read_bytes())
    flac[21] &= 0xF0  # The 36 bits of the number of samples; 0 is unknown.
    flac[22:26] = bytes(4)
    assert clip_seconds(bytes(flac), name="x") == float("inf")
    assert decode_clip(bytes(flac), 16000, name="x").size == 4800


def test_length_without_decoding_and_decoding_in_part(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(8000, 3.0), 8000, subtype="FLOAT")
    assert clip_seconds(path, name=path) == 3.0
    assert clip_seconds(path.read_bytes(), name="x") == 3.0
    whole = load_clip(path, 16000)
    np.testing.assert_array_equal(decode_clip(path.read_bytes(), 16000, name="x"), whole)
    part = load_clip(path, 16000, max_seconds=1.0)
    assert (whole.size, part.size) == (48000, 16000)
    np.testing.assert_allclose(part[:15000], whole[:15000], atol=1e-5)
    np.testing.assert_array_equal(load_clip(path, 16000, max_seconds=9.0), whole)


def test_eight_channels_at_200_khz(tmp_path):
    channels = np.stack([tone(200000, 0.5) * k for k in range(8)], 1) / 8
    path = tmp_path / "a.wav"
    soundfile.write(path, channels, 200000, subtype="FLOAT")
    clip = load_clip(path, 16000)
    assert clip.shape == (8000,)
    expected = tone(16000, 0.5) * 3.5 / 8
    np.testing.assert_allclose(clip[500:-500], expected[500:-500], atol=2e-4)
    assert np.abs(clip[500:-500] - expected[501:-499]).max() > 0.05


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
