"""Acoustic fingerprints: copies of a recording match, other recordings do not."""

import io
import itertools
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.fingerprint import (
    HOP,
    RATE,
    FingerprintConfig,
    FingerprintIndex,
    fingerprint,
    frames_of,
)
from mrl_jax.data.audio.decode import decode_clip

SPEECH_RATE = 16_000
CONFIG = FingerprintConfig()


def speech(seed: int, seconds: float = 4.0) -> np.ndarray:
    """[S] at 16 kHz: syllables of harmonics under formants that move, with pauses between."""
    rng = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < seconds * SPEECH_RATE:
        count = int(rng.uniform(0.12, 0.3) * SPEECH_RATE)
        time = np.arange(count) / SPEECH_RATE
        pitch = rng.uniform(90, 220) * (1 + 0.2 * rng.uniform(-1, 1) * time / time[-1])
        phase = 2 * np.pi * np.cumsum(pitch) / SPEECH_RATE
        formants = rng.uniform((300, 900, 2000), (900, 2000, 3000))
        sound = np.zeros(count)
        for harmonic in range(1, 12):
            heights = np.exp(-(((harmonic * pitch[:, None] - formants) / 150) ** 2)).sum(axis=1)
            sound += (heights + 0.01) * np.sin(harmonic * phase)
        parts += [sound * np.hanning(count), np.zeros(int(rng.uniform(0, 0.08) * SPEECH_RATE))]
    clip = np.concatenate(parts)[: int(seconds * SPEECH_RATE)]
    clip += 1e-4 * rng.standard_normal(len(clip))
    return (0.5 * clip / np.abs(clip).max()).astype(np.float32)


def print_of(clip: np.ndarray, rate: int = SPEECH_RATE, **options: Any):
    """The fingerprint of a clip that was written to a file, a WAV by default, and decoded."""
    file = io.BytesIO()
    given: dict[str, Any] = {"format": "WAV"} | options
    soundfile.write(file, clip, rate, **given)
    return fingerprint(decode_clip(file.getvalue(), RATE, name="clip"))


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [speech(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def index(clips) -> FingerprintIndex:
    return FingerprintIndex([print_of(clip) for clip in clips], CONFIG)


def telephone(clip):
    band = scipy.signal.butter(4, (300, 3400), "bandpass", fs=8000, output="sos")
    return print_of(np.asarray(scipy.signal.sosfilt(band, clip[::2])), 8000, subtype="ULAW")


def noisy(clip):
    noise = np.random.default_rng(0).standard_normal(len(clip))
    return print_of(clip + 0.1 * np.sqrt(np.mean(clip**2)) * noise)


COPIES = {
    "ogg": lambda clip: print_of(clip, format="OGG"),
    "volume": lambda clip: print_of(0.3 * clip),
    "rate": lambda clip: print_of(scipy.signal.resample_poly(clip, 441, 320), 22_050),
    "telephone": telephone,
    "noise": noisy,
    "step": lambda clip: print_of(clip + 2.0**-15 * (np.arange(len(clip)) == 7000)),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_whatever_was_done_to_it(clips, index, kind):
    for place, clip in enumerate(clips[:2]):
        match = index.find(COPIES[kind](clip))
        assert match is not None
        assert (match.clip, match.offset) == (place, 0)


def test_the_clip_itself_has_no_bit_errors(clips, index):
    match = index.find(print_of(clips[3]))
    assert match is not None
    assert (match.clip, match.bit_errors, match.offset) == (3, 0.0, 0)


@pytest.mark.parametrize("cut", [0.5, 0.5037, 1.3])
def test_a_part_is_found_with_its_place(clips, index, cut):
    samples = int(cut * SPEECH_RATE)
    match = index.find(print_of(clips[2][samples:-samples]))
    assert match is not None
    assert match.clip == 2
    assert abs(match.offset - cut * RATE / HOP) < 1


def test_a_longer_recording_with_a_held_out_clip_in_it_is_found(clips, index):
    match = index.find(print_of(np.concatenate([speech(90), clips[5], speech(91)])))
    assert match is not None
    assert match.clip == 5
    assert abs(match.offset + 4 * RATE / HOP) < 1.5


def test_less_than_the_wanted_overlap_is_none(clips):
    first, second = speech(20), speech(21)
    shared = speech(22, 3.0)
    one, other = np.concatenate([first, shared]), np.concatenate([shared, second])
    for seconds, matches in ((2.0, True), (4.0, False)):
        strict = FingerprintIndex([print_of(one)], FingerprintConfig(seconds=seconds))
        assert (strict.find(print_of(other)) is not None) == matches


def test_other_clips_match_none(index):
    for seed in range(100, 106):
        assert index.find(print_of(speech(seed))) is None
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, 5 * SPEECH_RATE)
    assert index.find(print_of(noise)) is None


def test_the_bit_errors_decide(clips):
    copy, clip = telephone(clips[0]), print_of(clips[0])
    errors = FingerprintIndex([clip], FingerprintConfig(bit_errors=0.4)).find(copy)
    assert errors is not None
    assert 0.0 < errors.bit_errors < CONFIG.bit_errors
    strict = FingerprintConfig(bit_errors=errors.bit_errors - 1e-6)
    assert FingerprintIndex([clip], strict).find(copy) is None


def test_silence_hums_and_beeps_match_nothing():
    time = np.arange(4 * RATE) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 30))
    clips = [np.zeros(4 * RATE), 0.1 * hum, np.sin(2 * np.pi * 440 * time)]
    prints = [fingerprint(clip.astype(np.float32)) for clip in clips]
    index = FingerprintIndex(prints, CONFIG)
    assert [index.find(one) for one in prints] == [None] * 3
    assert not any(one.active.mean() > 0.1 for one in prints)


@pytest.mark.parametrize("samples", [0, 1, 1849, 1850, 1907])
def test_clips_of_less_than_two_frames_have_no_fingerprint(samples):
    short = fingerprint(np.ones(samples, np.float32))
    assert (len(short.codes), len(short.active)) == (0, 0)
    assert FingerprintIndex([short], CONFIG).find(short) is None
    assert FingerprintIndex([], CONFIG).find(short) is None


@pytest.mark.parametrize(("seconds", "matches"), [(0.7, False), (1.5, True)])
def test_clips_of_a_second_are_compared_as_a_whole(seconds, matches):
    clip = print_of(speech(5, seconds))
    match = FingerprintIndex([print_of(speech(6)), clip], CONFIG).find(clip)
    assert (match is not None) == matches


def test_the_first_of_equal_clips_is_the_one(clips):
    prints = [print_of(clips[place]) for place in (1, 0, 0)]
    match = FingerprintIndex(prints, CONFIG).find(prints[2])
    assert match is not None
    assert match.clip == 1


def test_a_frame_is_the_signs_of_differences_of_band_energies(clips):
    """Against a direct computation, one frame and bit at a time."""
    clip = decode_clip(_wav(clips[0]), RATE, name="clip")
    codes = fingerprint(clip).codes

    def energies(frame: int) -> np.ndarray:
        part = clip[frame * HOP : frame * HOP + 1850].astype(np.float64) * np.hanning(1850)
        power = np.abs(np.fft.rfft(part, 2048)) ** 2
        edges = [round(300 * (20 / 3) ** (band / 33) * 2048 / RATE) for band in range(34)]
        return np.array([power[low:high].sum() for low, high in itertools.pairwise(edges)])

    wrong = 0
    for frame in (40, 111, 200):
        change = energies(frame + 1) - energies(frame)
        bits = [change[band + 1] - change[band] > 0 for band in range(32)]
        wrong += sum(bits[band] != bool(codes[frame] >> (31 - band) & 1) for band in range(32))
    assert wrong <= 1  # Of 96; one may be 0 but for rounding.


def _wav(clip: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, clip, SPEECH_RATE, format="WAV")
    return file.getvalue()


def test_frames_of_a_second():
    assert frames_of(0.37) == 1
    assert frames_of(1.0) == 55


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"bit_errors": 0.5}, "bit_errors is 0.5, expected 0 to 0.4"),
        ({"bit_errors": -0.1}, "bit_errors is -0.1, expected 0 to 0.4"),
        ({"bit_errors": float("nan")}, "bit_errors is NaN, expected a number"),
        ({"seconds": 0.5}, "seconds is 0.5, expected 1 to 3,600"),
    ],
)
def test_impossible_settings_are_refused(config, problem):
    with pytest.raises(MrlError, match=problem):
        FingerprintConfig(**config)
