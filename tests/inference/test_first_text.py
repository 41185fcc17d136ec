"""Start-up and prompts: what is compiled, and when."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_run
from compilations import compilations
from tiers import mostly_slow

import mrl_jax
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.encoder import prompt_places
from mrl_jax.inference.first_text import FirstText
from mrl_jax.inference.index.open_index import open_index
from mrl_jax.models.inputs import pad_clips

CLIP = (tiny_run.clip_of((0, 2), 1), tiny_run.RATE)
PROMPTS = ["ba", "ba ce", "ba ce di", "fo gu ba ce", "ba ce di fo gu ba"]
"""Of five lengths."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first_text")
    tiny_run.make_model(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(root):
    return mrl_jax.Embedder.load(root / "model", dtype="float32")


def test_prompts_of_any_length_use_the_programs_of_one(embedder):
    lengths = {len(ids) for ids in embedder.encoder.tokenizer.encode_prompts(PROMPTS)}
    assert len(lengths) == len(PROMPTS)
    clips = [CLIP, (tiny_run.clip_of((1, 3), 2), tiny_run.RATE)]
    embedder.embed_speech(clips, prompt=PROMPTS[0])
    for words in ("ba", "ba ce di fo", "ba ce di fo gu ba ce di fo gu"):
        embedder.embed_text([words])  # A text of each padded length there is below.
    with compilations() as names:
        spoken = [embedder.embed_speech(clips, prompt=prompt) for prompt in PROMPTS]
        written = [embedder.embed_text(["ba ce"], prompt=prompt) for prompt in PROMPTS]
    assert names == []
    samples, sizes = pad_clips([CLIP[0]], embedder.model.speech.config)
    tokenizer, model = embedder.encoder.tokenizer, embedder.model
    for number in (0, 4):  # Without padding.
        ids = np.asarray(tokenizer.encode_prompts([PROMPTS[number]]), np.int32)
        alone = jax.jit(model.embed_speech)(samples, sizes, ids)
        np.testing.assert_allclose(spoken[number][:1], alone, atol=1e-6)
        ids = np.asarray(tokenizer.encode([f"{PROMPTS[number]}ba ce"]), np.int32)
        alone = jax.jit(model.embed_text)(ids, np.ones(ids.shape, bool))
        np.testing.assert_allclose(written[number], alone, atol=1e-6)
    assert np.abs(spoken[0] - spoken[1]).max() > 1e-4
    long = " ".join(PROMPTS * 3)
    with compilations() as names:
        embedder.embed_speech(clips, prompt=long)
    assert len(names) > 0


def test_places_of_prompts():
    places = [prompt_places([[0] * length, []]) for length in (0, 1, 32, 33, 64, 65, 300)]
    assert places == [0, 32, 32, 64, 64, 128, 512]


@pytest.mark.parametrize("options", mostly_slow([{}, {"prompt": "ba ce di: "}, {"task": "find"}]))
@pytest.mark.parametrize("int8", mostly_slow([False, True]))
def test_a_first_text_is_compiled_while_the_weights_are_read(root, embedder, options, int8):
    held = {"dtype": "float32", "int8": int8}
    loaded = mrl_jax.Embedder.load(root / "model", first=FirstText("fo gu", **options), **held)
    with compilations() as names:
        vectors = loaded.embed_text(["fo gu"], **options)
    assert names == []
    if not int8:
        np.testing.assert_array_equal(vectors, embedder.embed_text(["fo gu"], **options))
    plain = mrl_jax.Embedder.load(root / "model", **held)
    with compilations() as names:
        np.testing.assert_array_equal(plain.embed_text(["fo gu"], **options), vectors)
    assert len(names) == 1


@pytest.mark.slow
def test_a_first_text_on_one_device(root):
    program = (
        "import sys, jax; sys.path.insert(0, sys.argv[2]); from compilations import compilations\n"
        "from mrl_jax import Embedder; from mrl_jax.inference.first_text import FirstText\n"
        "assert len(jax.devices()) == 1\n"
        "model = Embedder.load(sys.argv[1], first=FirstText('ba ce'))\n"
        "with compilations() as names: model.embed_text(['ba ce'])\n"
        "assert names == [], names\n"
        "with compilations() as names: model.embed_text(['ba ce di fo gu ' * 4])\n"
        "assert len(names) == 1, names\n"
    )
    helpers = str(tiny_run.__file__).rpartition("/")[0]
    command = [sys.executable, "-c", program, str(root / "model"), helpers]
    subprocess.run(command, check=True, timeout=600)


@pytest.mark.slow
def test_an_index_loads_its_model_for_a_first_text(root, embedder, tmp_path):
    documents = [{"id": "a", "text": "ba"}, {"id": "b", "text": "di fo"}]
    index = mrl_jax.SearchIndex.build(embedder, documents).save(tmp_path / "index")
    for model in (None, root / "model"):
        opened = open_index(index, model, FirstText("fo gu", task="find"))
        loaded = opened.embedder
        with compilations() as names:
            loaded.embed_text(["fo gu"], task="find")
        assert names == []
        clips = [CLIP, CLIP]
        spoken = embedder.embed_speech(clips, task="find")
        np.testing.assert_allclose(loaded.embed_speech(clips, task="find"), spoken, atol=1e-5)


def test_a_first_text_that_cannot_be(root):
    with pytest.raises(MrlError, match="both prompt and task are given"):
        FirstText("ba", task="find", prompt="ba")
    with pytest.raises(MrlError, match="'no such' has no prompt"):
        mrl_jax.Embedder.load(root / "model", first=FirstText("ba", task="no such"))
