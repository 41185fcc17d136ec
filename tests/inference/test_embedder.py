"""A model folder, read back: the Embedder. The head is random here."""

import dataclasses
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_run
from descriptions import unsealed

import mrl_jax
from mrl_jax.checkpoints.models import read_model_info, save_model, tower_reference
from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.spectrum.fit_rotation import fit_model_rotation

RATE = tiny_run.RATE


@pytest.fixture(scope="module")
def folder(root) -> Path:
    return root / "model"


@pytest.fixture(scope="module")
def embedder(folder):
    return mrl_jax.Embedder.load(folder)


CLIPS = [(tiny_run.clip_of((i, (i + 2) % 5), i), RATE) for i in range(5)]


def test_a_vector_does_not_depend_on_its_batch(embedder):
    together = embedder.embed_speech(CLIPS)
    alone = np.concatenate([embedder.embed_speech([clip]) for clip in CLIPS])
    long = (tiny_run.clip_of((0, 1, 2, 3, 4, 0, 1, 2, 3, 4), 9), RATE)
    with_long = embedder.embed_speech([*CLIPS, long])[:-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, with_long, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    texts = ["ba ce", "di", "fo gu fo gu fo"]
    each = np.concatenate([embedder.embed_text([text]) for text in texts])
    np.testing.assert_allclose(embedder.embed_text(texts), each, atol=1e-5)


@pytest.mark.parametrize("dim", [None, 32, 16, 8])
def test_vectors_are_unit_float32_prefixes(embedder, dim):
    for embed, inputs in (
        (embedder.embed_speech, CLIPS[:2]),
        (embedder.embed_text, ["ba", "ce di"]),
    ):
        whole, vectors = embed(inputs), embed(inputs, dim=dim)
        assert vectors.shape == (2, dim or 32)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        prefix = whole[:, :dim] / np.linalg.norm(whole[:, :dim], axis=1, keepdims=True)
        np.testing.assert_allclose(vectors, prefix, atol=1e-6)


def test_a_dim_that_was_not_trained_warns_and_one_above_the_width_fails(embedder):
    with pytest.warns(UserWarning, match="dim 12 is not among those trained: 32, 16, 8"):
        embedder.embed_text(["ba"], dim=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.embed_text(["ba"], dim=16)
    with pytest.raises(MrlError, match="dim is 64, expected 1 to 32"):
        embedder.embed_speech(CLIPS, dim=64)


def test_a_file_and_its_samples_are_the_same(embedder, tmp_path):
    clip = tiny_run.clip_of((1, 3), 5)
    path = tmp_path / "a.wav"
    soundfile.write(path, clip, RATE, subtype="FLOAT")
    from_file = embedder.embed_speech([path])
    np.testing.assert_array_equal(from_file, embedder.embed_speech([(clip, RATE)]))
    np.testing.assert_array_equal(from_file, embedder.embed_speech([str(path)]))
    # At another rate it is nearly the same sound, and not the same samples.
    slow = embedder.embed_speech([(np.repeat(clip, 2), 2 * RATE)])
    assert 0.5 < float(from_file[0] @ slow[0]) < 1 - 1e-7


def test_prompts_change_queries_and_tasks_name_them(embedder):
    plain = embedder.embed_speech(CLIPS[:1])
    prompted = embedder.embed_speech(CLIPS[:1], prompt="ba ce\nQuery:")
    assert np.abs(plain - prompted).max() > 1e-3
    np.testing.assert_array_equal(prompted, embedder.embed_speech(CLIPS[:1], task="find"))
    with pytest.raises(MrlError, match="the task 'sing' has no prompt"):
        embedder.embed_speech(CLIPS[:1], task="sing")
    with pytest.raises(MrlError, match="both prompt and task"):
        embedder.embed_speech(CLIPS[:1], task="find", prompt="ba")


def test_written_queries_have_prompts_too(embedder):
    plain = embedder.embed_text(["di fo"])
    prompted = embedder.embed_text(["di fo"], prompt="ba ce\nQuery:")
    assert np.abs(plain - prompted).max() > 1e-3
    np.testing.assert_array_equal(prompted, embedder.embed_text(["di fo"], task="find"))
    np.testing.assert_array_equal(prompted, embedder.embed_text(["ba ce\nQuery:di fo"]))
    np.testing.assert_array_equal(plain, embedder.embed_text(["di fo"], prompt=""))
    with pytest.raises(MrlError, match="the task 'sing' has no prompt"):
        embedder.embed_text(["di"], task="sing")
    with pytest.raises(MrlError, match="both prompt and task"):
        embedder.embed_text(["di"], task="find", prompt="ba")


def test_a_rotation_is_applied_to_both_sides(folder, embedder, tmp_path):
    copy = tmp_path / "models"
    shutil.copytree(folder.parent, copy)
    with pytest.raises(MrlError, match=r"has no rotation.*mrl-jax rotate"):
        mrl_jax.Embedder.load(copy / "model", rotation=True)
    data = tiny_run.make_retrieval_set(tmp_path / "set")
    fit_model_rotation(copy / "model", data)
    rotated_embedder = mrl_jax.Embedder.load(copy / "model", rotation=True)
    assert rotated_embedder.rotation is not None
    texts = ["ba ce", "di fo", "gu"]
    whole = [embedder.embed_speech(CLIPS), embedder.embed_text(texts)]
    rotated = [rotated_embedder.embed_speech(CLIPS), rotated_embedder.embed_text(texts)]
    np.testing.assert_allclose(rotated[0] @ rotated[1].T, whole[0] @ whole[1].T, atol=1e-5)
    expected = whole[1] @ rotated_embedder.rotation.matrix[:, :8]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rotated_embedder.embed_text(texts, dim=8), expected, atol=1e-5)
    assert np.abs(expected - embedder.embed_text(texts, dim=8)).max() > 0.05
    # Without the flag the rotation that lies there does nothing.
    again = mrl_jax.Embedder.load(copy / "model")
    np.testing.assert_array_equal(again.embed_text(texts), whole[1])
    with pytest.raises(MrlError, match="both a search config and a rotation"):
        mrl_jax.Embedder.load(copy / "model", search_config=True, rotation=True)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.full(300, 0.1, np.float32), "shorter than one speech token"),
        (np.zeros(8000, np.float32), "is silent: all samples are zero"),
        (np.full(8000, 9000, np.float32), "they look like 16-bit whole numbers"),
        (np.full(8000, np.nan, np.float32), "NaN or infinite"),
        (np.zeros(0, np.float32), "holds no samples"),
        (np.zeros((8000, 2), np.float32), "expected one row of floats"),
        (np.zeros(8000, np.int16), "expected one row of floats"),
    ],
)
def test_clips_that_are_none_are_named(embedder, clip, message):
    with pytest.raises(MrlError, match=rf"clip 1: .*{message}"):
        embedder.embed_speech([CLIPS[0], (clip, RATE)])


def test_all_broken_recordings_are_counted_and_named(embedder, tmp_path):
    (tmp_path / "page.mp3").write_text("<!DOCTYPE html>")
    silence = (np.zeros(8000, np.float32), RATE)
    clips = [tmp_path / "page.mp3", CLIPS[0], tmp_path / "no.wav", silence]
    with pytest.raises(MrlError) as error:
        embedder.embed_speech(clips)
    line = str(error.value)
    assert line.startswith(f"3 of 4 recordings are broken: {tmp_path}/page.mp3: cannot be decoded")
    assert f"; {tmp_path}/no.wav: no such file; clip 3: is silent" in line
    with pytest.raises(MrlError, match=r"^clip 1: is silent"):
        embedder.embed_speech([CLIPS[0], silence])


def test_nothing_to_embed(embedder):
    with pytest.raises(MrlError, match="nothing to embed"):
        embedder.embed_text([])
    with pytest.raises(MrlError, match="texts is one string"):
        embedder.embed_text("ba ce")
    with pytest.raises(MrlError, match="no such file"):
        embedder.embed_speech(["nowhere.wav"])


def test_towers_of_another_model_are_refused_with_both_digests(folder, tmp_path):
    copy = tmp_path / "models"
    shutil.copytree(folder.parent, copy)
    other, _ = tiny_run.make_towers(tmp_path / "other", seed=8)
    shutil.rmtree(copy / "towers" / "speech")
    shutil.copytree(other, copy / "towers" / "speech")
    info = read_model_info(copy / "model")
    with pytest.raises(MrlError, match="is not the speech tower") as error:
        mrl_jax.Embedder.load(copy / "model")
    assert info.speech.digest[:12] in str(error.value)
    assert tower_reference(other, copy).digest[:12] in str(error.value)
    # Moved together, a model and its towers still are one.
    shutil.rmtree(copy)
    shutil.copytree(folder.parent, copy)
    mrl_jax.Embedder.load(copy / "model")


def test_damaged_models_are_refused(folder, tmp_path):
    with pytest.raises(MrlError, match=r"no such file.*mrl-jax train"):
        mrl_jax.Embedder.load(tmp_path)
    copy = tmp_path / "models"
    shutil.copytree(folder.parent, copy)
    path = copy / "model" / "model.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(MrlError, match="cannot be read as a model description"):
        mrl_jax.Embedder.load(copy / "model")
    path.write_text(whole.replace('"head_digest": "', '"head_digest": "0'))
    with pytest.raises(MrlError, match="is not the description that was written"):
        mrl_jax.Embedder.load(copy / "model")
    path.write_text(unsealed(path))
    with pytest.raises(MrlError, match="its digest differs"):
        mrl_jax.Embedder.load(copy / "model")
    path.write_text(whole)
    shutil.rmtree(next((copy / "model").glob("head-*")))
    with pytest.raises(MrlError, match=r"head-.*is missing, and model\.json names it"):
        mrl_jax.Embedder.load(copy / "model")
    with pytest.raises(MrlError, match="the trained head is missing"):
        mrl_jax.Embedder.load(copy / "model", verify=False)


def test_saving_again_replaces_the_head_whole(folder, tmp_path):
    info = read_model_info(folder)
    fields = {f.name: getattr(info, f.name) for f in dataclasses.fields(info)}
    del fields["head"], fields["head_digest"]
    out = tmp_path / "model"
    for value in (1.0, 2.0):
        saved = save_model(out, fields, {"head.a": np.full(3, value, np.float32)})
        assert [path.name for path in out.glob("head-*")] == [saved.head]
        assert read_model_info(out) == saved
    assert not list(out.glob(".*"))
