"""Strings of spoken digits: the split, the wording, joining, and reading the recordings."""

import re
from pathlib import Path

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.demo import digits
from mrl_jax.demo.digits import DigitVoices, Take


def takes(*, leave_out: int | None = None) -> list[Take]:
    """Clips whose samples all say digit, speaker and take: 0.123 is digit 1, speaker 2, take 3."""
    return [
        Take(digit, speaker, take, np.full(200, digit / 10 + s / 100 + take / 1000, np.float32))
        for digit in range(10)
        for s, speaker in enumerate(("ana", "bo"), start=1)
        for take in range(1, 3)
        if digit != leave_out
    ]


def test_the_split_is_fixed_by_its_seed_and_covers_every_string_once():
    train, test = digits.split_strings()
    assert (len(train), len(test)) == (800, 200)
    assert sorted(train + test) == [f"{number:03d}" for number in range(1000)]
    assert digits.split_strings() == (train, test)
    assert digits.split_strings(seed=1)[1] != test


def test_wording():
    assert digits.english("371") == "three seven one"
    assert digits.french("371") == "trois sept un"
    assert digits.french("000") == "zéro zéro zéro"
    assert len({digits.french(f"{number:03d}") for number in range(1000)}) == 1000


def test_a_string_is_one_speaker_its_digits_in_order_and_gaps_between():
    voices = DigitVoices(takes())
    seen = set()
    for seed in range(20):
        clip = voices.speak("307", np.random.default_rng(seed), gap_seconds=(0.01, 0.02))
        # Away from faded ends, each part says what it is.
        values = np.unique(np.round(clip[np.convolve(clip != 0, np.ones(90), "same") == 90], 3))
        plain = [v for v in values if np.count_nonzero(np.isclose(clip, v, atol=1e-5)) > 100]
        assert {int(v * 10 + 1e-3) for v in plain} == {0, 3, 7}
        assert len({int(v * 100 + 1e-3) % 10 for v in plain}) == 1
        seen.update(round(v * 1000) % 100 for v in plain)
        gaps = [len(gap) for gap in re.findall(r"0+", "".join("01"[int(v != 0)] for v in clip))]
        assert len(gaps) == 2
        assert all(80 <= gap <= 160 for gap in gaps)
    assert seen == {11, 12, 21, 22}


def test_a_speaker_may_be_named():
    voices = DigitVoices(takes())
    clip = voices.speak("5", np.random.default_rng(0), speaker="bo")
    assert clip.size == 200
    assert round(float(clip[100]) * 100) % 10 == 2
    assert voices.speak("5", np.random.default_rng(0), speaker="ana").size == 200


def test_a_missing_digit_is_refused():
    with pytest.raises(MrlError, match="speaker ana has no recording of 4"):
        DigitVoices(takes(leave_out=4))


def test_silence_is_trimmed_to_30_ms():
    tone = np.sin(np.arange(1600) / 3).astype(np.float32)
    quiet = np.full(2400, 1e-4, np.float32)
    trimmed = digits.trim_silence(np.concatenate((quiet, tone, quiet)), 8000)
    assert trimmed.size == 1600 + 2 * 240
    np.testing.assert_array_equal(trimmed[240:1840], tone)
    np.testing.assert_array_equal(digits.trim_silence(tone, 8000), tone)
    silence = np.zeros(500, np.float32)
    np.testing.assert_array_equal(digits.trim_silence(silence, 8000), silence)
    assert digits.trim_silence(np.zeros(0, np.float32), 8000).size == 0


def test_recordings_are_read_by_name(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("librosa")
    tone = np.sin(np.arange(800) / 3)
    for name in ("3_ana_0", "3_ana_12", "notes"):
        soundfile.write(tmp_path / f"{name}.wav", tone, 8000)
    read = digits.load_takes(tmp_path, sample_rate=16_000)
    assert [(take.digit, take.speaker, take.take) for take in read] == [
        (3, "ana", 0),
        (3, "ana", 12),
    ]
    assert read[0].clip.size == 1600


def test_a_folder_without_recordings_is_refused(tmp_path: Path):
    with pytest.raises(MrlError, match="holds no recording named"):
        digits.load_takes(tmp_path)
    with pytest.raises(MrlError, match="no such folder"):
        digits.load_takes(tmp_path / "absent")
