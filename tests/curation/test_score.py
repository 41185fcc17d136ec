"""What `score` measures of a row, and the confidence of a recogniser by its own logits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import tiny_ctc

from mrl_jax.checkpoints.new_towers import save_speech_tower
from mrl_jax.core.errors import MrlError
from mrl_jax.curation.audio import load_audio
from mrl_jax.curation.rows import Row
from mrl_jax.curation.score import Score, ScoreConfig
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.init import initial_recogniser
from mrl_jax.models.inputs import pad_clips

RATE = 8000


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "a.wav"
    times = np.arange(2 * RATE) / RATE
    wave = 0.3 * np.sin(2 * np.pi * 500 * times) * ((times % 0.5) < 0.3)
    wave += 0.003 * np.random.default_rng(0).standard_normal(times.size)
    soundfile.write(path, wave, RATE)
    return path


def row_of(clip: Path, **fields) -> Row:
    return Row(id="a", audio=str(clip), measured={"source.rate": RATE}, **fields)


def test_sound_and_speed_are_measured_at_the_recordings_own_rate(clip):
    stage = Score(ScoreConfig())
    [row] = stage.apply(row_of(clip, transcript="ab c\nd"))
    assert row.dropped is None
    assert set(stage.measures) == {key for key in row.measured if key.startswith("score.")}
    assert row.measured["score.characters_per_second"] == 2.0
    assert 3900 < float(row.measured["score.bandwidth_hz"]) <= RATE / 2
    # 60% of a tone of mean power 0.045, over noise of 9e-6.
    assert row.measured["score.snr_db"] == pytest.approx(34.8, abs=0.5)


def test_a_part_of_a_recording_is_measured_alone(clip):
    [row] = Score(ScoreConfig()).apply(row_of(clip, start=0.31, end=0.49))
    assert float(row.measured["score.loudness_lufs"]) < -45
    assert "score.characters_per_second" not in row.measured


def test_texts_pass_and_a_missing_recording_is_broken(clip, tmp_path):
    text = Row(id="t", text="text")
    assert Score(ScoreConfig()).apply(text) == [text]
    with pytest.raises(BrokenRow, match="no such file"):
        Score(ScoreConfig()).apply(row_of(tmp_path / "none.wav"))


def test_confidence_is_that_of_the_recognisers_own_logits(clip, tmp_path):
    # The blank is a token that this random recogniser often takes.
    vocabulary = CtcVocabulary(("|", "a", "<pad>", *"bcdefg"), blank=2)
    model = initial_recogniser(tiny_ctc.TINY, vocabulary, 1)
    save_speech_tower(tmp_path / "recogniser", model)
    stage = Score(ScoreConfig(recogniser=str(tmp_path / "recogniser")))
    [row] = stage.apply(row_of(clip))
    samples, lengths = pad_clips([load_audio(row, RATE)], tiny_ctc.TINY)
    output = model(jnp.asarray(samples), jnp.asarray(lengths))
    probabilities = np.asarray(jax.nn.softmax(output.logits[0], axis=-1))
    probabilities = probabilities[np.asarray(output.frame_mask[0])]
    written = probabilities.argmax(-1) != vocabulary.blank
    assert 0 < written.sum() < written.size
    expected = probabilities.max(-1)[written].mean()
    assert row.measured["score.confidence"] == pytest.approx(float(expected), abs=1e-5)
    assert expected != pytest.approx(float(probabilities.max(-1).mean()), abs=1e-4)
    # A clip shorter than one frame.
    with pytest.raises(BrokenRow):
        stage.apply(row_of(clip, end=0.001))


def test_a_recogniser_that_is_none_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(MrlError, match="nothing"):
        Score(ScoreConfig(recogniser=str(tmp_path / "nothing")))
