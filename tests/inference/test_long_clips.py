"""Clips that are too long, prompts of few lengths, and an Embedder in other processes."""

import os
import pickle
import shutil
import warnings

import jax
import numpy as np
import pytest
import tiny_run

import mrl_jax
from mrl_jax.core import memory
from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens
from mrl_jax.inference.batching import run_batches
from mrl_jax.inference.encoder import prompt_places
from mrl_jax.inference.long_clips import clip_memory
from mrl_jax.models.inputs import pad_clips

RATE = tiny_run.RATE
CLIP = (tiny_run.clip_of((1, 3), 5), RATE)


@pytest.fixture(scope="module")
def embedder(root):
    return mrl_jax.Embedder.load(root / "model")


@pytest.fixture(scope="module")
def tokenizer(root, embedder):
    info = embedder.info
    return TextTokenizer(root / "model" / info.text.path, max_tokens=info.max_text_tokens)


def test_a_clip_over_the_limit_is_refused_with_the_memory_it_would_take(root, tmp_path):
    import soundfile

    limited = mrl_jax.Embedder.load(root / "model", max_seconds=2.0)
    long = np.zeros(3 * RATE, np.float32)
    line = r"recording is 3.0 s long, more than max_seconds, 2; it would take about .* GB"
    with pytest.raises(MrlError, match=f"clip 1: the {line}"):
        limited.embed_speech([CLIP, (long, RATE)])
    soundfile.write(tmp_path / "long.wav", long, RATE)
    with pytest.raises(MrlError, match=f"long.wav: the {line}"):
        limited.embed_speech([tmp_path / "long.wav"])
    assert limited.embed_speech([CLIP]).shape == (1, 32)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(root, wrong):
    with pytest.raises(MrlError, match="max_seconds is"):
        mrl_jax.Embedder.load(root / "model", max_seconds=wrong)


def test_a_clip_that_memory_does_not_hold_is_refused_before_it_is_computed(
    embedder, tmp_path, monkeypatch
):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:     200000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    minutes = np.zeros(90 * RATE, np.float32)
    with pytest.raises(MrlError, match=r"90.0 s long and takes about .* GB .* 0.2 GB are free"):
        embedder.embed_speech([(minutes, RATE)])
    assert embedder.embed_speech([CLIP]).shape == (1, 32)


def test_the_estimate_grows_with_the_length(embedder):
    one, two, four = (clip_memory(embedder.model, 60.0 * minutes) for minutes in (1, 2, 4))
    assert one < two < four
    assert four - two == pytest.approx(2 * (two - one), rel=1e-6)


def test_batches_of_long_rows_have_fewer_of_them():
    sizes = []

    def program(rows):
        sizes.append(len(rows))
        return rows

    lengths = [100, 10, 10, 45, 10, 10, 20, 3]
    outputs = dict.fromkeys(range(len(lengths)))
    for rows, values in run_batches(
        lengths, lambda rows: (np.asarray(rows),), program, batch_size=4, full_length=20
    ):
        outputs.update(zip(rows.tolist(), values.tolist(), strict=True))
    assert sizes == [1, 1, 4, 4]
    assert outputs == {row: row for row in range(len(lengths))}


@pytest.mark.slow
def test_prompts_of_any_length_compile_few_programs_and_change_no_vector(embedder, tokenizer):
    compiled = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    words = [" ".join(["ba"] * count) for count in range(1, 25)]
    lengths = {len(ids) for ids in tokenizer.encode_prompts(words)}
    places = {prompt_places([[0] * length]) for length in lengths}
    assert len(lengths) > 8
    vectors = {prompt: embedder.embed_speech([CLIP], prompt=prompt) for prompt in words}
    programs = compiled.count("/jax/core/compile/backend_compile_duration")
    assert 0 < len(places) < len(lengths) // 3
    assert programs <= 2 * len(places)
    # The same without padding.
    samples, sizes = pad_clips([CLIP[0]], embedder.model.speech.config)
    for prompt in (words[0], words[8]):
        tokens = pad_tokens(tokenizer.encode_prompts([prompt]))
        alone = embedder.model.embed_speech(samples, sizes, *tokens)
        np.testing.assert_allclose(vectors[prompt], alone, atol=1e-6)
    assert np.abs(vectors[words[0]] - vectors[words[8]]).max() > 1e-4


def test_a_pickled_embedder_is_loaded_again(root, embedder, tokenizer, tmp_path):
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(again.embed_text(["ba ce"]), embedder.embed_text(["ba ce"]))
    limited = mrl_jax.Embedder.load(root / "model", max_seconds=7.0)
    assert pickle.loads(pickle.dumps(limited)).max_seconds == 7

    copy = tmp_path / "models"
    shutil.copytree(root, copy)
    kept = pickle.dumps(mrl_jax.Embedder.load(copy / "model"))
    shutil.rmtree(copy)
    with pytest.raises(MrlError, match="no such file"):
        pickle.loads(kept)
    embedder_of_modules = mrl_jax.Embedder(embedder.model, embedder.info, tokenizer)
    with pytest.raises(MrlError, match="made of modules cannot be pickled"):
        pickle.dumps(embedder_of_modules)


def test_a_forked_child_says_so_instead_of_hanging(embedder):
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX and Python warn of the fork itself.
        child = os.fork()
    if not child:
        try:
            embedder.embed_text(["ba"])
            line = "embedded"
        except MrlError as error:
            line = str(error)
        os.write(writer, line.encode())
        os._exit(0)
    os.close(writer)
    assert "forked child" in os.read(reader, 1000).decode()
    os.waitpid(child, 0)
