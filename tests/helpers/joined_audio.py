"""Recordings joined from known pieces: speech, noise, music and silence, and where each stands."""

import numpy as np

RATE = 16_000


def noise(seconds: float, level: float, seed: int) -> np.ndarray:
    """White noise."""
    return level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def music(seconds: float, level: float, root: float = 220.0) -> np.ndarray:
    """A chord of three voices with four overtones each and a vibrato of 5 Hz."""
    times = np.arange(round(seconds * RATE)) / RATE
    wave = np.zeros_like(times)
    for interval in (1.0, 1.26, 1.5):
        phase = root * interval * (times + 0.002 * np.sin(2 * np.pi * 5 * times))
        wave += sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 6))
    return level * wave / np.abs(wave).max()


def trimmed(samples: np.ndarray, *, below_db: float = 35.0) -> np.ndarray:
    """A clip without the quiet at its ends, by the energy of windows of 10 ms."""
    size = RATE // 100
    windows = samples[: samples.size // size * size].reshape(-1, size)
    power = np.square(windows, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-below_db / 10))
    return samples[loud[0] * size : (loud[-1] + 1) * size]


def joined(
    pieces: list[tuple[bool, np.ndarray]],
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The pieces in a row as float32, and seconds [start, end) of those that are speech."""
    spans, at = [], 0
    for is_speech, samples in pieces:
        if is_speech:
            spans.append((at / RATE, (at + samples.size) / RATE))
        at += samples.size
    return np.concatenate([samples for _, samples in pieces]).astype(np.float32), spans
