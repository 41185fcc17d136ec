"""Recordings on disk: decoded as librosa decodes them, at the rate that was asked for."""

import io
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repository import ROOT, SHARED_DATA

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import (
    MOST_SAMPLES,
    clip_seconds,
    decode_clip,
    load_clip,
    resample,
)

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
        "text.wav": "(the file is text, it begins 'hello')",
        "random.ogg": "(Format not recognised)",
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


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_clip_is_decoded_from_its_start(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    samples = np.random.default_rng(0).standard_normal(24000).astype(np.float32) * 0.1
    soundfile.write(path, samples, 8000)
    whole = load_clip(path, 8000)
    part = load_clip(path, 8000, start_seconds=1.25, max_seconds=0.5)
    np.testing.assert_allclose(part, whole[10000:14000], atol=1e-6)
    np.testing.assert_allclose(load_clip(path, 8000, start_seconds=2.0), whole[16000:], atol=1e-6)
    with pytest.raises(MrlError, match="ends before 3 s, where the clip begins"):
        load_clip(path, 8000, start_seconds=3.0)


def test_silence_is_taken_where_it_is_allowed(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(8000, np.float32), 8000)
    with pytest.raises(MrlError, match="is silent"):
        load_clip(path, 16000)
    np.testing.assert_array_equal(load_clip(path, 16000, allow_silence=True), np.zeros(16000))


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


def refusal(source: Path | bytes, **options: Any) -> str:
    with pytest.raises(MrlError) as error:
        decode_clip(source, 16000, name="x", **options)
    line = str(error.value)
    assert "\n" not in line
    return line


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to("nowhere.wav")
    (tmp_path / "a.wav").write_bytes(wav(tone(16000)))
    (tmp_path / "good").symlink_to("a.wav")
    words = {
        tmp_path / "pipe": "is a named pipe, expected a file",
        tmp_path / "loop": "is a loop of symbolic links",
        tmp_path / "gone": "is a link to nowhere.wav, which is not there",
        tmp_path / ("a" * 300): f"is too long for a path: {len(str(tmp_path)) + 301} bytes",
        tmp_path / "a.wav" / "b.wav": "no such file",
        Path("/dev/zero"): "is a device, expected a file",
    }
    for path, problem in words.items():
        assert refusal(path).startswith(f"x: {problem}"), path
        with pytest.raises(MrlError, match="x: "):
            clip_seconds(path, name="x")
    assert decode_clip(tmp_path / "good", 16000, name="x").size == 4800
    if Path("/proc/self/mem").exists():  # Its size is said to be 0, and it has no end.
        assert "(the file is empty)" in refusal(Path("/proc/self/mem"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give up its rights")
def test_a_file_that_may_not_be_read_and_one_in_a_closed_folder():
    # Of another user, in a process of its own: root may read everything.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o700)
        for path in (folder / "mine.wav", folder / "closed" / "a.wav"):
            path.write_bytes(wav(tone(16000)))
            path.chmod(0o600)
        script = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from mrl_jax.data.audio.decode import decode_clip\n"
            "from mrl_jax.core.errors import MrlError\n"
            "import librosa, soundfile\n"
            "os.seteuid(65534)\n"
            "for path in sys.argv[1:]:\n"
            "    try:\n"
            "        decode_clip(Path(path), 16000, name='x')\n"
            "    except MrlError as error:\n"
            "        print(error.problem)\n"
        )
        paths = [str(folder / "mine.wav"), str(folder / "closed" / "a.wav")]
        command = [sys.executable, "-c", script, *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout == "cannot be read: Permission denied\n" * 2


def wav(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, **{"format": "WAV", **options})
    return file.getvalue()


def field(data: bytes, place: int, layout: str, value: int) -> bytes:
    """A file with another number in its header."""
    changed = struct.pack(layout, value)
    return data[:place] + changed + data[place + len(changed) :]


OTHER_FILES = {
    b"<!DOCTYPE html><html><body>404": "the file is an HTML page: the download failed",
    b"\n<HTML>": "the file is an HTML page: the download failed",
    b'<?xml version="1.0"?><Error>': "the file is an XML document: the download failed",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 32044\n": (
        "the file is a Git LFS pointer to 32044 bytes, which `git lfs pull` fetches"
    ),
    b"/annex/objects/SHA256E-s9--aa.wav\n": "the file is a git-annex pointer",
    b"PK\3\4" + bytes(99): "the file is a ZIP archive, to be unpacked first",
    b"#!AMR\n" + bytes(range(99)): "AMR audio is not supported",
    bytes(5000): "all of its first 4096 bytes are zero: it was not copied to its end",
    b"Not found": "the file is text, it begins 'Not found'",
}


@pytest.mark.parametrize("ending", ["mp3", "wav", "au"])  # .au without a header is noise.
def test_files_that_are_something_else_are_called_what_they_are(ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    for content, words in OTHER_FILES.items():
        path.write_bytes(content)
        assert f"x: cannot be decoded as audio ({words}" in refusal(path)
        assert refusal(path) == refusal(content)


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64", "NIST"])
def test_a_container_without_its_end_is_refused(form):
    whole = wav(tone(16000, 1.0), format=form)
    assert decode_clip(whole, 16000, name="x").size == 16000
    for end in (len(whole) // 2, len(whole) - 100, len(whole) - 1):
        assert "the file is truncated: its end is missing" in refusal(whole[:end])
    # What is asked for is there, and what follows the samples does not matter.
    assert decode_clip(whole[:-100], 16000, name="x", max_seconds=0.5).size == 8000
    if form in ("WAV", "AIFF", "CAF"):
        assert decode_clip(whole + b"LIST\4\0\0\0abcd", 16000, name="x").size == 16000


def test_a_recorder_that_was_stopped_leaves_no_number_of_samples():
    whole = wav(tone(16000))
    start = whole.index(b"data") + 4
    stopped = field(field(whole, start, "<I", 0), 4, "<I", 0)
    assert "its header says 0 samples, and 9600 bytes follow: " in refusal(stopped)
    empty = whole[:start] + bytes(4)
    assert refusal(empty).startswith("x: holds no samples")
    assert refusal(empty + b"LIST\4\0\0\0abcd").startswith("x: holds no samples")
    au = wav(tone(16000), format="AU", endian="BIG")
    assert "its header says 0 samples, and 9600 bytes follow: " in refusal(field(au, 8, ">I", 0))
    # The number that says "up to the end", by programs that stream.
    assert decode_clip(field(au, 8, ">I", 0xFFFFFFFF), 16000, name="x").size == 4800


def test_channels_that_cancel_each_other_are_no_silence(tmp_path):
    left = tone(16000)
    noise = np.random.default_rng(0).normal(0, 5e-4, left.size).astype(np.float32)
    words = "x: its 2 channels cancel each other when they are mixed (antiphase): keep one of them"
    for right in (-left, -left + noise):
        for options in ({}, {"subtype": "FLOAT"}, {"format": "OGG"}):
            assert refusal(wav(np.stack([left, right], 1), **options)).startswith(words)
    for right in (-0.9 * left, 0 * left, left):
        assert decode_clip(wav(np.stack([left, right], 1)), 16000, name="x").size == 4800
    assert refusal(wav(np.zeros((4800, 2)))).startswith("x: is silent: all samples are zero")


def test_whole_numbers_that_were_written_as_floats_are_named():
    for bits, scale in ((8, 128), (16, 32768), (24, 2**23), (32, 2**31)):
        samples = 0.9 / 0.49 * tone(16000) * scale
        words = f"they look like {bits}-bit whole numbers, so divide them by {scale}"
        assert words in refusal(wav(samples, subtype="FLOAT"))
        with pytest.raises(MrlError, match=words):
            resample(samples, 16000, 16000, name="x")
    assert decode_clip(wav(4 * tone(16000), subtype="FLOAT"), 16000, name="x").size == 4800


def test_an_mp3_behind_other_bytes_is_read_from_its_frames():
    mp3 = wav(tone(16000, 1.0), format="MP3")
    expected = decode_clip(mp3, 16000, name="x")
    np.testing.assert_array_equal(decode_clip(bytes(1000) + mp3, 16000, name="x"), expected)


def test_rates_of_sample_and_lengths_are_bounded(tmp_path):
    whole = wav(tone(16000))
    for rate in (1, 999, 2_000_000):
        words = f"the sample rate in its header is {rate}, expected 1,000 to 1,000,000"
        assert words in refusal(field(whole, 24, "<I", rate))
        with pytest.raises(MrlError, match=words):
            clip_seconds(field(whole, 24, "<I", rate), name="x")
    assert decode_clip(field(whole, 24, "<I", 1000), 16000, name="x").size == 76800
    for rate in (0, 1, -8000, np.nan, np.inf):
        with pytest.raises(MrlError, match="rate is "):
            resample(tone(8000), rate, 16000, name="x")
    for rate in (0, 1, -8000):
        with pytest.raises(MrlError, match=r"rate (asked for )?is "):
            decode_clip(whole, rate, name="x")
    for seconds in (0.0, -1.0, np.nan, np.inf):
        assert "max_seconds is " in refusal(whole, max_seconds=seconds)
    # 19 hours at 16 kHz, in a hole that takes no room on the disk.
    path, size = tmp_path / "long.wav", 2 * MOST_SAMPLES + 2
    header = field(field(whole[:44], 4, "<I", size + 36), 40, "<I", size)
    path.write_bytes(header + whole[44:])
    os.truncate(path, 44 + size)
    assert refusal(path).startswith("x: is too long: 9.3 hours or more, 9.3 at most. Cut it")
    assert decode_clip(path, 16000, name="x", max_seconds=10.0).size == 160000
    path.write_bytes(field(header, 24, "<I", 1000))  # Resampled it is longer.
    os.truncate(path, 44 + size // 8)
    assert "is too long: 18.6 hours or more, 9.3 at most" in refusal(path)


def test_nan_is_counted_before_resampling_spreads_it(tmp_path):
    samples = tone(8000)
    samples[[100, 200]] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    words = "2 of 2400 samples are NaN or infinite, the first is 100"
    assert words in refusal(tmp_path / "a.wav")
    with pytest.raises(MrlError, match=words):
        resample(samples, 8000, 16000, name="x")


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
