"""Stage `speakers`: voices of known pitch and colour, statistics against numpy, and refusals."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import tiny_run

from mrl_jax.checkpoints.towers import load_speech_tower
from mrl_jax.core.errors import MrlError
from mrl_jax.curation.rows import Row
from mrl_jax.curation.speaker_vectors import StateStatistics, mfcc_statistics
from mrl_jax.curation.speakers import (
    Speakers,
    SpeakersConfig,
    cluster_voices,
    completeness,
    purity,
    standardised,
)
from mrl_jax.models.inputs import pad_clips

RATE = 16_000


def voice(speaker, seed):
    """Half a second of a buzz: pitch and colour are the speaker's, the vowel is not."""
    rng = np.random.default_rng(seed)
    pitch = (110, 180, 260)[speaker] * rng.uniform(0.97, 1.03)
    time = np.arange(RATE // 2) / RATE
    vowel = rng.uniform(400, 900)
    clip = np.zeros(len(time))
    for harmonic in range(1, int(6000 / pitch)):
        frequency = harmonic * pitch
        level = np.exp(-(((frequency - vowel) / 300) ** 2)) + 0.3 * np.exp(
            -(((frequency - (2200, 3000, 4000)[speaker]) / 400) ** 2)
        )
        clip += level * np.sin(2 * np.pi * frequency * time + rng.uniform(0, 6))
    return (0.1 * clip + 0.001 * rng.standard_normal(len(clip))).astype(np.float32)


TRUTH = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    rows = []
    for number, speaker in enumerate(TRUTH):
        path = folder / f"{number}.wav"
        soundfile.write(path, voice(speaker, number), RATE)
        rows.append(Row(id=f"r{number}", audio=str(path)))
    return rows


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return tiny_run.make_towers(tmp_path_factory.mktemp("tower"))[0]


@pytest.mark.parametrize("speakers", [None, 3])
def test_voices_become_groups_and_named_speakers_stay(rows, speakers):
    named = dataclasses.replace(rows[0], id="named", speaker="Ana")
    text = Row(id="text", text="ba")
    out = Speakers(SpeakersConfig(speakers=speakers, distance=1.1)).apply([named, text, *rows])
    assert out[:2] == [named, text]
    groups = [str(row.speaker) for row in out[2:]]
    assert purity([*map(hash, groups)], [*map(str, TRUTH)]) == 1
    assert completeness([*map(hash, groups)], [*map(str, TRUTH)]) == 1
    assert groups[0] == "cluster-001"  # The first speaker has the most clips.
    assert out[2].history == ("speakers: voice of cluster-001",)


def test_one_group_and_many(rows):
    one = Speakers(SpeakersConfig(distance=2.0)).apply(rows)
    assert {row.speaker for row in one} == {"cluster-001"}
    each = Speakers(SpeakersConfig(distance=1e-9)).apply(rows)
    assert len({row.speaker for row in each}) == len(rows)


def test_layer_states_are_used_where_there_is_a_tower(rows, tower):
    first = Speakers(SpeakersConfig(tower=str(tower), speakers=3)).apply(rows)
    assert len({row.speaker for row in first}) == 3
    statistics = StateStatistics(tower)
    clips = [voice(0, 1), voice(1, 2)[:6000]]
    found = statistics.layers(clips)
    encoder = load_speech_tower(tower)
    for clip, own in zip(clips, found, strict=True):
        states = encoder(*pad_clips([clip], encoder.config, size=len(clip))).layer_states
        states = np.asarray(states[:, 0], np.float64)
        wanted = np.concatenate((states.mean(axis=1), states.std(axis=1)), axis=-1)
        np.testing.assert_allclose(own, wanted, atol=2e-4)
    assert np.abs(found[0, 0] - found[0, 1]).max() > 1e-2
    np.testing.assert_array_equal(statistics.of_layer(2)(clips), found[:, 1])
    assert jnp.isfinite(found).all()


def test_mfccs_do_not_know_the_loudness():
    clip = voice(0, 1)
    loud, quiet = mfcc_statistics([clip, clip / 4], RATE)
    np.testing.assert_allclose(loud, quiet, atol=0.5)
    other = mfcc_statistics([voice(1, 1)], RATE)[0]
    assert np.abs(loud - other).max() > 10


def test_rows_beyond_the_most_join_the_nearest_group():
    rng = np.random.default_rng(0)
    centres = 5 * rng.standard_normal((4, 10))
    truth = rng.integers(0, 4, 200)
    vectors = (centres[truth] + rng.standard_normal((200, 10))).astype(np.float32)
    some = cluster_voices(vectors, speakers=4, most_rows=40)
    assert purity(some, [*map(str, truth)]) == 1
    np.testing.assert_array_equal(some, cluster_voices(vectors, speakers=4))
    sizes = np.bincount(some)
    assert (np.diff(sizes) <= 0).all()


def test_vectors_are_standardised():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((50, 6)) * [1, 10, 100, 1, 1, 0] + 7).astype(np.float32)
    unit = standardised(vectors)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1)
    assert np.abs(unit[:, 5]).max() == 0
    np.testing.assert_allclose(np.abs(unit[:, :3]).mean(axis=0), 0.4, atol=0.12)
    np.testing.assert_allclose(np.linalg.norm(standardised(vectors[:1]), axis=1), 1)


def test_purity_and_completeness():
    speakers = ["a", "a", "a", "b", "b", "c"]
    assert purity([0, 0, 1, 1, 1, 1], speakers) == pytest.approx(4 / 6)
    assert completeness([0, 0, 1, 1, 1, 1], speakers) == pytest.approx(5 / 6)
    assert purity([0, 1, 2, 3, 4, 5], speakers) == 1
    assert completeness([0] * 6, speakers) == 1


def test_a_broken_clip_is_dropped(rows, tmp_path):
    out = Speakers(SpeakersConfig()).apply([Row(id="no", audio=str(tmp_path / "no.wav")), *rows])
    assert out[0].dropped is not None
    assert all(row.speaker for row in out[1:])


def test_what_is_no_speech_tower_is_refused(tower):
    with pytest.raises(MrlError, match="layer is 9, and the tower has 2"):
        Speakers(SpeakersConfig(tower=str(tower), layer=9))
    with pytest.raises(MrlError, match="expected a speech tower"):
        Speakers(SpeakersConfig(tower=str(tower.parent / "text")))
