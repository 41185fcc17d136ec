"""Degradations: each is what it says, measured by numpy alone; a seed and a name decide all."""

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.degrade import (
    AMOUNTS,
    Condition,
    babble,
    degrade,
    first_part,
    generator_of,
    mix,
    telephone_band,
)

RATE = 16_000
KINDS = [
    Condition(kind="clean"),
    Condition(kind="white", amount=5.0),
    Condition(kind="babble", amount=5.0),
    Condition(kind="reverberation", amount=0.3),
    Condition(kind="telephone"),
    Condition(kind="speed", amount=1.25),
    Condition(kind="length", amount=0.5),
]


def speech_like(seed: int, seconds: float = 0.7) -> np.ndarray:
    """Noise in bursts with pauses between, louder at low frequencies."""
    rng = np.random.default_rng(seed)
    size = int(seconds * RATE)
    noise = np.cumsum(rng.standard_normal(size)) * 0.01
    noise -= np.convolve(noise, np.ones(200) / 200, mode="same")
    return (noise * (np.sin(np.arange(size) / 800) > -0.3)).astype(np.float32)


OTHERS = [speech_like(100 + i, 0.4 + 0.1 * i) for i in range(8)]


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    power = [np.mean(np.asarray(x, np.float64) ** 2) for x in (signal, noise)]
    return float(10 * np.log10(power[0] / power[1]))


@pytest.mark.parametrize("kind", ["white", "babble"])
@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 7.5, 30.0])
def test_the_snr_measured_is_the_one_requested(kind, snr_db):
    for seed in range(4):
        clip = speech_like(seed, 0.3 + 0.2 * seed)
        condition = Condition(kind=kind, amount=snr_db)
        noisy = degrade(
            clip, condition, generator_of(seed, kind, "q"), sample_rate=RATE, others=OTHERS
        )
        assert noisy.shape == clip.shape
        assert noisy.dtype == np.float32
        added = noisy.astype(np.float64) - clip.astype(np.float64)
        assert decibels(clip, added) == pytest.approx(snr_db, abs=0.01)


def test_levels_of_one_noise_differ_in_gain_only():
    clip = speech_like(0)
    for kind in ("white", "babble"):
        quiet, loud = (
            degrade(
                clip,
                Condition(kind=kind, amount=snr),
                generator_of(0, kind, "q"),
                sample_rate=RATE,
                others=OTHERS,
            )
            - clip
            for snr in (20.0, 0.0)
        )
        np.testing.assert_allclose(10 * quiet, loud, atol=1e-5)


def test_white_noise_is_white_and_babble_is_the_other_clips():
    clip = speech_like(0, 2.0)
    white = mix(clip, generator_of(0, "white", "q").standard_normal(clip.size), 0.0) - clip
    power = np.abs(np.fft.rfft(white)) ** 2
    thirds = [part.mean() for part in np.array_split(power, 3)]
    assert max(thirds) / min(thirds) < 1.15
    # One talker: the mixture is that clip, begun elsewhere and repeated.
    (talker,) = OTHERS[:1]
    noise = babble([talker], np.random.default_rng(0), 3 * talker.size)
    power = np.sqrt(np.mean(talker.astype(np.float64) ** 2))
    np.testing.assert_allclose(np.sort(noise[: talker.size]) * power, np.sort(talker), atol=1e-6)
    np.testing.assert_array_equal(noise[: talker.size], noise[talker.size : 2 * talker.size])
    # Loud and quiet clips count alike.
    loud = [clip * 100 if i % 2 else clip for i, clip in enumerate(OTHERS)]
    a, b = (babble(clips, np.random.default_rng(1), 5000) for clips in (OTHERS, loud))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_babble_of_silence_or_nothing():
    clip = speech_like(0)
    condition, rng = Condition(kind="babble", amount=0.0), np.random.default_rng(0)
    for others in ([], [np.zeros(100, np.float32)]):
        with pytest.raises(MrlError, match="babble takes at least one other clip"):
            degrade(clip, condition, rng, sample_rate=RATE, others=others)
    # A clip that is mostly a pause is still audible.
    pause = np.zeros(100_000, np.float32)
    pause[50_000] = 1.0
    for seed in range(5):
        assert babble([pause], np.random.default_rng(seed), 100).any()
    silent = np.zeros(100, np.float32)
    np.testing.assert_array_equal(mix(silent, np.ones(100), 0.0), silent)


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
def test_the_telephone_band(rate):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(rate).astype(np.float32)
    filtered = telephone_band(noise, rate)
    assert filtered.shape == noise.shape
    assert filtered.dtype == np.float32
    window = np.hanning(noise.size)  # A sharp cut would leak into all frequencies.
    hertz = np.fft.rfftfreq(noise.size, 1 / rate)
    before, after = (np.abs(np.fft.rfft(x * window)) ** 2 for x in (noise, filtered))

    def power_left(low: float, high: float) -> float:
        band = (hertz >= low) & (hertz < high)
        return float(after[band].sum() / before[band].sum())

    if rate > 8000:
        assert power_left(4000, rate / 2 + 1) < 1e-9
        assert power_left(4000, 5000) < 1e-8
    assert power_left(0, 240) < 1e-6
    assert power_left(320, 3380) == pytest.approx(1, abs=1e-3)
    assert power_left(3750, min(4000, rate / 2)) < 1e-6
    # What is inside the band passes as it is, in time as well as in level.
    time = np.arange(rate) / rate
    tone = (np.sin(2 * np.pi * 1000 * time) * np.hanning(rate)).astype(np.float32)
    np.testing.assert_allclose(telephone_band(tone, rate), tone, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 7, 331, 16_001])
def test_any_length_comes_out_finite(size):
    clip = speech_like(0, 2.0)[:size] + np.float32(0.01)
    for condition in KINDS:
        rng = generator_of(0, condition.kind, "q")
        changed = degrade(clip, condition, rng, sample_rate=RATE, others=OTHERS)
        assert changed.size > 0
        assert np.isfinite(changed).all()
        assert changed.dtype == np.float32
        if condition.kind not in ("speed", "length"):
            assert changed.shape == clip.shape


def test_speed_and_length():
    clip = speech_like(0, 1.0)
    rng = np.random.default_rng(0)
    for factor in (0.8, 1.25):
        fast = degrade(clip, Condition(kind="speed", amount=factor), rng, sample_rate=RATE)
        assert fast.size == round(16_000 / factor)
    np.testing.assert_array_equal(first_part(clip, 0.25), clip[:4000])
    np.testing.assert_array_equal(first_part(clip, 1.0), clip)
    assert first_part(clip[:3], 0.5).size == 2


@pytest.mark.parametrize("condition", KINDS, ids=lambda c: c.kind)
def test_a_seed_and_a_name_decide_everything_and_the_clip_is_left_alone(condition):
    clip = speech_like(0)
    kept = clip.copy()

    def once(seed: int, name: str) -> np.ndarray:
        rng = generator_of(seed, condition.kind, name)
        return degrade(clip, condition, rng, sample_rate=RATE, others=OTHERS)

    first = once(0, "q1")
    np.testing.assert_array_equal(once(0, "q1"), first)
    np.testing.assert_array_equal(clip, kept)
    drawn = condition.kind in ("white", "babble", "reverberation")
    for other in (once(1, "q1"), once(0, "q2")):
        assert (np.abs(other - first).max() > 1e-3) == drawn
    if condition.kind == "clean":
        np.testing.assert_array_equal(first, clip)
    else:
        assert first.shape != clip.shape or np.abs(first - clip).max() > 1e-3


def test_records_and_titles():
    white, length = Condition(kind="white", amount=5.0), Condition(kind="length", amount=0.5)
    assert white.parameters == {"condition": "white", "snr_db": 5}
    assert length.parameters == {"condition": "length", "fraction": 0.5}
    assert Condition(kind="clean").parameters == {"condition": "clean"}
    assert [c.title for c in KINDS] == [
        "clean",
        "white noise, 5 dB",
        "babble, 5 dB",
        "reverberation, 0.3 s",
        "telephone band",
        "speed, 1.25 times",
        "first 50%",
    ]
    assert {c.kind for c in KINDS} == {"clean", "telephone", *AMOUNTS}


@pytest.mark.parametrize(
    ("kind", "amount", "message"),
    [
        ("wind", None, "condition wind: expected one of clean, telephone, white"),
        ("white", None, "the amount is None. It takes snr_db"),
        ("clean", 1.0, "the amount is 1.0. It takes no amount"),
        ("speed", 0.0, "the amount is 0.0, expected more than 0"),
        ("length", 1.5, "expected more than 0 and at most 1"),
        ("reverberation", -0.1, "expected more than 0"),
    ],
)
def test_bad_conditions(kind, amount, message):
    with pytest.raises(MrlError, match=message):
        Condition(kind=kind, amount=amount)


def test_babble_is_of_six_talkers_and_looks_at_no_more():
    class Clips(list):
        taken = 0

        def __getitem__(self, place):
            Clips.taken += 1
            return list.__getitem__(self, place)

    many = Clips([np.zeros(10, np.float32), *(speech_like(i, 0.1) for i in range(300))])
    noise = babble(many, np.random.default_rng(0), 1600)
    assert Clips.taken <= 3 * 7  # Not the whole set for every query.
    # Six of equal power that have nothing to do with each other.
    assert np.mean(noise**2) == pytest.approx(6, rel=0.5)
