"""Augmentation: each change does what it says, and nothing else; a seed decides all."""

import dataclasses
import functools
import pickle

import numpy as np
import pytest

from mrl_jax.core.config import override
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio import augment
from mrl_jax.data.audio.augment import AugmentConfig

RATE = 8000
CONFIG = AugmentConfig()


def tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def noise(seconds: float = 0.5) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(int(seconds * RATE)).astype(np.float32)


def pitch(clip: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(clip)).argmax() * RATE / clip.size)


def band_power(clip: np.ndarray, low: float, high: float) -> float:
    hertz = np.fft.rfftfreq(clip.size, 1 / RATE)
    power = np.square(np.abs(np.fft.rfft(clip)))
    return float(power[(hertz >= low) & (hertz < high)].sum() / clip.size)


def vowel(formant: float, fundamental: float = 100.0) -> np.ndarray:
    """Harmonics under one resonance."""
    harmonics = np.arange(fundamental, RATE / 2, fundamental)
    levels = np.exp(-np.square((harmonics - formant) / 300)) + 1e-3
    tones = [level * tone(h) for h, level in zip(harmonics, levels, strict=True)]
    return functools.reduce(np.add, tones)


def centre(clip: np.ndarray) -> float:
    power = np.square(np.abs(np.fft.rfft(clip)))
    return float(np.sum(power * np.fft.rfftfreq(clip.size, 1 / RATE)) / power.sum())


def test_speed_moves_length_and_pitch():
    faster = augment.change_speed(tone(440), 1.25)
    assert faster.size == 3200
    assert pitch(faster) == pytest.approx(550, abs=5)
    np.testing.assert_allclose(faster.std(), tone(440).std(), rtol=0.01)
    slower = augment.change_speed(tone(440), 0.8)
    assert (slower.size, pitch(slower)) == (5000, pytest.approx(352, abs=5))
    np.testing.assert_allclose(augment.change_speed(noise(), 1.0), noise(), atol=1e-5)


@pytest.mark.parametrize("tempo", [0.8, 1.25])
def test_tempo_moves_length_and_not_pitch(tempo: float):
    changed = augment.stretch_and_warp(tone(440), RATE, tempo=tempo)
    assert changed.size == round(4000 / tempo)
    assert pitch(changed) == pytest.approx(440, abs=5)
    assert 0.6 < changed[800:-800].std() / tone(440).std() < 1.1


def test_tempo_of_nearly_one_gives_the_clip_back():
    same = augment.stretch_and_warp(noise(), RATE, tempo=1 + 1e-9)
    np.testing.assert_allclose(same, noise(), atol=1e-5)
    assert augment.stretch_and_warp(noise(), RATE) is not None
    changed = augment.stretch_and_warp(noise(), RATE, tempo=1.01)
    assert np.abs(changed[:3900] - noise()[:3900]).max() > 0.1


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_formants_move_and_pitch_does_not(factor: float):
    changed = augment.stretch_and_warp(vowel(1200), RATE, formants=factor)
    assert changed.size == 4000
    assert centre(changed) == pytest.approx(1200 * factor, rel=0.12)
    # Harmonics stay where they were: power between two of them stays small.
    on = sum(band_power(changed, h - 15, h + 15) for h in range(800, 1600, 100))
    between = sum(band_power(changed, h + 35, h + 65) for h in range(800, 1600, 100))
    assert on > 20 * between


def test_equaliser_keeps_length_and_changes_the_spectrum():
    flat = dataclasses.replace(
        CONFIG, eq_db=(0.0, 0.0), tilt_db=(0.0, 0.0), band_limit_probability=0.0
    )
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(augment.equalise(noise(), rng, flat, RATE), noise(), atol=1e-5)
    tilted = dataclasses.replace(flat, tilt_db=(12.0, 12.0))
    clip = augment.equalise(noise(), rng, tilted, RATE)
    ratio = (band_power(clip, 3900, 4000) / band_power(noise(), 3900, 4000)) / (
        band_power(clip, 0, 100) / band_power(noise(), 0, 100)
    )
    assert 10 * np.log10(ratio) == pytest.approx(12, abs=0.6)


def test_band_limit_cuts_both_edges():
    config = dataclasses.replace(
        CONFIG,
        eq_db=(0.0, 0.0),
        tilt_db=(0.0, 0.0),
        band_limit_probability=1.0,
        low_cut_hz=(300.0, 300.0),
        high_cut=(0.6, 0.6),
    )
    clip = augment.equalise(noise(), np.random.default_rng(0), config, RATE)
    assert band_power(clip, 0, 50) < 1e-3 * band_power(noise(), 0, 50)
    assert band_power(clip, 3000, 4000) < 1e-3 * band_power(noise(), 3000, 4000)
    np.testing.assert_allclose(
        band_power(clip, 400, 2300), band_power(noise(), 400, 2300), rtol=1e-3
    )


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_has_the_requested_level_and_slope(snr_db: float):
    rng = np.random.default_rng(0)
    added = augment.add_noise(tone(440), rng, snr_db, 0.0) - tone(440)
    measured = 10 * np.log10(np.square(tone(440)).mean() / np.square(added).mean())
    assert measured == pytest.approx(snr_db, abs=0.01)
    white_share = band_power(added, 2000, 4000) / band_power(added, 0, 2000)
    red = augment.add_noise(tone(440), rng, snr_db, 2.0) - tone(440)
    assert white_share == pytest.approx(1, abs=0.3)
    assert band_power(red, 2000, 4000) < 0.1 * band_power(red, 0, 2000)


def test_room_keeps_length_and_level_and_rings_on():
    clip = np.concatenate((tone(440, 0.25), np.zeros(2000, np.float32)))
    wet = augment.reverberate(clip, np.random.default_rng(0), 0.4, RATE)
    assert wet.shape == clip.shape
    np.testing.assert_allclose(np.square(wet).mean(), np.square(clip).mean(), rtol=1e-4)
    assert np.square(wet[2000:2400]).mean() > 30 * np.square(wet[3600:]).mean() > 0


def test_masks_silence_stretches_of_the_requested_length():
    config = dataclasses.replace(
        CONFIG, mask_probability=1.0, num_masks=1, mask_seconds=(0.05, 0.05)
    )
    clip = noise()
    masked = augment.mask_time(clip, np.random.default_rng(0), config, RATE)
    silent = np.flatnonzero(masked == 0)
    assert silent.size == 400
    assert silent[-1] - silent[0] == 399
    kept = np.delete(np.arange(clip.size), silent)
    np.testing.assert_array_equal(masked[kept], clip[kept])
    assert np.all(clip != 0)


@pytest.mark.parametrize("function", [augment.augment_voice, augment.augment_channel])
def test_a_seed_decides_everything_and_the_clip_is_left_alone(function):
    clip = noise()
    once = function(clip, np.random.default_rng(5), CONFIG, RATE)
    again = function(clip, np.random.default_rng(5), CONFIG, RATE)
    other = function(clip, np.random.default_rng(6), CONFIG, RATE)
    np.testing.assert_array_equal(once, again)
    assert once.dtype == np.float32
    assert once.shape != other.shape or np.abs(once - other).max() > 1e-3
    np.testing.assert_array_equal(clip, noise())


@pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.1])
def test_very_short_clips_and_silence_stay_finite(seconds: float):
    rng = np.random.default_rng(0)
    for clip in (noise(seconds)[: max(int(seconds * RATE), 1)], np.zeros(500, np.float32)):
        for _ in range(5):
            for function in (augment.augment_voice, augment.augment_channel):
                changed = function(clip + 0 if clip.size else tone(440), rng, CONFIG, RATE)
                assert changed.size
                assert np.isfinite(changed).all()


def test_every_range_is_read():
    """Moving any field changes what comes out (fields behind a probability: at 1)."""
    base = dataclasses.replace(
        CONFIG,
        band_limit_probability=1.0,
        reverb_probability=1.0,
        noise_probability=1.0,
        mask_probability=1.0,
    )

    def both(config: AugmentConfig) -> np.ndarray:
        clip = augment.augment_voice(noise(), np.random.default_rng(2), config, RATE)
        return augment.augment_channel(clip, np.random.default_rng(3), config, RATE)

    plain = both(base)
    for field in dataclasses.fields(AugmentConfig):
        value = getattr(base, field.name)
        moved = (
            (value[0] * 0.9 + 0.01, value[1] * 0.9 + 0.01)
            if isinstance(value, tuple)
            else (0.0 if isinstance(value, float) else value + 1)
        )
        changed = both(dataclasses.replace(base, **{field.name: moved}))
        assert changed.shape != plain.shape or np.abs(changed - plain).max() > 1e-6, field.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": (1.3, 0.8)}, r"AugmentConfig.speed: is \(1.3, 0.8\), expected the lower end"),
        ({"tempo": (0.0, 1.2)}, r"AugmentConfig.tempo: is .* expected factors above 0"),
    ],
)
def test_bad_ranges(change: dict, message: str):
    with pytest.raises(MrlError, match=message):
        AugmentConfig(**change)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_augmentations_by_name(name):
    change, stretch = augment.resolve_augment(name, 1.0, RATE)
    assert change is not None
    change = pickle.loads(pickle.dumps(change))  # As processes that make batches get it.
    clip, lengths, changed = noise(), [], []
    for seed in range(20):
        first, again = (change(clip, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert first.dtype == np.float32
        lengths.append(first.size)
        changed.append(not np.array_equal(first, clip))
    assert (max(lengths) > clip.size) == (stretch > 1)
    assert max(lengths) <= clip.size * stretch
    assert any(changed)


def test_an_augmentation_that_is_a_function_is_taken_as_it_is():
    def twice(clip, rng):
        return np.concatenate((clip, clip))

    assert augment.resolve_augment(twice, 2.0, RATE) == (twice, 2.0)
    assert augment.resolve_augment(None, 1.0, RATE) == (None, 1.0)
    assert augment.resolve_augment("channel", 1.5, RATE)[1] == 1.5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chanel", "'chanel', expected one of channel, mask, voice. Did you mean channel?"),
        ("x", "Choose one of these, or none"),
    ],
)
def test_an_augmentation_of_another_name(name, words):
    for refuse in (augment.check_augment, lambda name: augment.resolve_augment(name, 1.0, RATE)):
        with pytest.raises(MrlError) as caught:
            refuse(name)
        assert words in str(caught.value)


def test_an_augmentation_from_the_command_line():
    from mrl_jax.training.contrastive.config import ExperimentConfig
    from mrl_jax.training.ctc.config import CtcExperiment

    for config in (ExperimentConfig(name="x"), CtcExperiment(name="x")):
        assert override(config, ["augment=voice"]).augment == "voice"
        assert override(config, ["augment=none"]) == config
        with pytest.raises(MrlError, match="Did you mean voice"):
            override(config, ["augment=voise"])
