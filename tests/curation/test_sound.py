"""Measures of sound against signals whose values are known."""

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from mrl_jax.curation import sound

RATE = 16_000
TIMES = np.arange(4 * RATE) / RATE


def syllables(level: float) -> np.ndarray:
    """A tone that is on for 0.3 s and off for 0.2 s, as speech has pauses."""
    return level * np.sin(2 * np.pi * 300 * TIMES) * ((TIMES % 0.5) < 0.3)


@pytest.mark.parametrize("wanted", [0.0, 10.0, 20.0, 40.0])
def test_snr_of_a_signal_with_pauses_in_noise(wanted):
    signal = syllables(0.3)
    power = np.square(signal).mean() / 10 ** (wanted / 10)
    noise = np.random.default_rng(0).standard_normal(signal.size) * np.sqrt(power)
    assert sound.snr_db((signal + noise).astype(np.float32), RATE) == pytest.approx(wanted, abs=1.0)


def test_noise_without_pauses_scores_low_and_no_noise_the_most():
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32) * 0.1
    assert sound.snr_db(noise, RATE) < -3
    assert sound.snr_db(syllables(0.3).astype(np.float32), RATE) == sound.MOST_SNR


def test_clipping_counts_what_is_cut_off():
    whole = (0.9 * np.sin(2 * np.pi * 100 * TIMES)).astype(np.float32)
    cut = np.clip(2 * whole, -0.9, 0.9)
    expected = (np.abs(2 * whole) >= 0.9).mean()
    assert sound.clipped_share(cut) == pytest.approx(expected, abs=0.001)
    assert expected > 0.5
    assert sound.clipped_share(whole) < 0.02
    assert sound.clipped_share(0.1 * cut) == 0.0


@pytest.mark.parametrize("cutoff", [2000, 4000, 6000])
def test_bandwidth_is_where_a_low_pass_ends(cutoff):
    noise = np.random.default_rng(0).standard_normal(4 * RATE) * 0.1
    low = np.asarray(sosfilt(butter(16, cutoff, fs=RATE, output="sos"), noise), np.float32)
    # A Butterworth of 16 poles falls by 60 dB within 0.62 octaves.
    assert cutoff < sound.bandwidth_hz(low, RATE) < 1.6 * cutoff
    assert sound.bandwidth_hz(noise.astype(np.float32), RATE) > 7900


def test_silence_is_the_share_of_pauses():
    clip = syllables(0.3) + 1e-5 * np.random.default_rng(0).standard_normal(TIMES.size)
    assert sound.silent_share(clip.astype(np.float32), RATE) == pytest.approx(0.4, abs=0.03)


def test_loudness_of_the_reference_tone():
    # ITU-R BS.1770-4: a 997 Hz sine at 0 dBFS in one channel reads -3.01 LKFS.
    tone = np.sin(2 * np.pi * 997 * TIMES)
    for level in (0.0, -20.0):
        value = sound.loudness_lufs((10 ** (level / 20) * tone).astype(np.float32), RATE)
        assert value == pytest.approx(level - 3.01, abs=0.2)
    assert sound.loudness_lufs(np.zeros(RATE, np.float32), RATE) == sound.LOUDEST_SILENCE
    short = (0.1 * tone[:2000]).astype(np.float32)
    assert sound.loudness_lufs(short, RATE) == pytest.approx(-23.01, abs=1.5)
