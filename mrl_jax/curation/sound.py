"""What is measured of a clip's samples: noise, clipping, bandwidth, silence, loudness."""

import warnings

import numpy as np

from mrl_jax.core.array_types import HostArray

WINDOW_SECONDS = 0.025
QUIETEST = 0.1
"""Share of a clip's windows that are taken to be its noise."""
MOST_SNR = 80.0
"""Decibels: what is left of a clip without any noise."""
SILENT_BELOW = 40.0
"""Decibels below the loudest windows, from which a window is silent."""
FAINT = 60.0
"""Decibels below the strongest part of the spectrum, from which there is nothing."""
FULL = 0.9995
"""Of the clip's own peak: samples there may be clipped."""
LOUDEST_SILENCE = -70.0
"""LUFS: the gate of ITU-R BS.1770, which loudness never is below."""


def window_power(samples: HostArray, rate: int) -> HostArray:
    """Mean power of each window: [S] to [W] float64."""
    size = max(round(WINDOW_SECONDS * rate), 1)
    count = max(samples.size // size, 1)
    windows = np.resize(samples, count * size) if samples.size < size else samples[: count * size]
    return np.square(windows.reshape(count, size), dtype=np.float64).mean(axis=1)


def snr_db(samples: HostArray, rate: int) -> float:
    """Speech over noise in decibels, by the clip itself: the quietest windows are its noise.

    Speech has pauses of that length everywhere; music and crowds have none, and score low.
    """
    power = np.sort(window_power(samples, rate))
    noise = power[: max(round(power.size * QUIETEST), 1)].mean()
    speech = power.mean() - noise
    if speech <= noise * 10 ** (-MOST_SNR / 10):
        return 0.0 if noise > 0 else -MOST_SNR
    if noise <= speech * 10 ** (-MOST_SNR / 10):
        return MOST_SNR
    return float(10 * np.log10(speech / noise))


def clipped_share(samples: HostArray) -> float:
    """Share of samples that are cut off: in a row of three or more at the clip's own peak, where
    that is half of full scale or more.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < 0.5:
        return 0.0
    shares = 0.0
    for side in (samples, -samples):
        at_peak = np.pad(side >= FULL * peak, 2)
        middle = at_peak[:-2] & at_peak[1:-1] & at_peak[2:]
        shares += (np.convolve(middle, np.ones(3), "same") > 0).sum()
    return float(shares / samples.size)


def bandwidth_hz(samples: HostArray, rate: int) -> float:
    """The frequency above which the clip holds nothing: 4 kHz of a telephone, whatever the rate of
    its file.
    """
    from scipy.signal import welch

    size = min(1024, samples.size)
    frequencies, power = welch(samples.astype(np.float64), rate, nperseg=size)
    audible = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (-FAINT / 10))
    return float(frequencies[audible[-1]]) if audible.size else 0.0


def silent_share(samples: HostArray, rate: int) -> float:
    """Share of the windows that are far quieter than the loudest."""
    power = window_power(samples, rate)
    loud = np.quantile(power, 0.98)
    return float((power < loud * 10 ** (-SILENT_BELOW / 10)).mean()) if loud > 0 else 1.0


def loudness_lufs(samples: HostArray, rate: int) -> float:
    """Integrated loudness by ITU-R BS.1770-4; clips under 0.4 s are one block."""
    import pyloudnorm

    block = min(0.4, samples.size / rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the logarithm of silence.
        meter = pyloudnorm.Meter(rate, block_size=block)
        value = float(meter.integrated_loudness(samples.astype(np.float64)))
    return max(value, LOUDEST_SILENCE) if np.isfinite(value) else LOUDEST_SILENCE
