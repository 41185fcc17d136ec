"""A head's initial weights from a CTC layer, against scikit-learn and numpy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax import nnx
from sklearn.linear_model import LinearRegression, Ridge

import mrl_jax
from mrl_jax.core.batch import Batch
from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
from mrl_jax.models.text_vocabulary import text_tower_vocabulary
from mrl_jax.training.contrastive.ctc_init import (
    RIDGE,
    character_vectors,
    init_from_ctc,
    ridge,
)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return tiny_run.make_towers(tmp_path_factory.mktemp("towers"))


def batch_of(encoder, words) -> Batch:
    clips = [tiny_run.clip_of(pair, seed) for seed, pair in enumerate(words)]
    samples, lengths = mrl_jax.pad_clips(clips, encoder.config)
    none = np.zeros((len(clips), 0), np.int32)
    ids = np.arange(len(clips), dtype=np.int32)
    return Batch(
        samples=samples,
        lengths=lengths,
        prompt=none,
        prompt_mask=none.astype(bool),
        document=none,
        document_mask=none.astype(bool),
        query_ids=ids,
        document_ids=ids,
        rows=np.ones(len(clips), bool),
    )


def moments(inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ones = np.concatenate((np.ones((len(inputs), 1)), inputs), axis=1)
    return ones.T @ ones, ones.T @ outputs


def test_ridge_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 6)) * [1, 2, 3, 0.1, 1, 1] + 5
    inputs[:, 5] = inputs[:, 0] + 1e-3 * inputs[:, 5]  # Nearly the same twice.
    outputs = inputs @ rng.normal(size=(6, 4)) + rng.normal(size=(200, 4)) + 2
    weights, bias = ridge(*moments(inputs, outputs))
    penalty = len(inputs) * RIDGE * inputs.var(axis=0).mean()
    expected = Ridge(alpha=penalty, solver="cholesky").fit(inputs, outputs)
    np.testing.assert_allclose(weights, expected.coef_.T, atol=1e-6)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-5)
    without = LinearRegression().fit(inputs, outputs)
    assert np.abs(weights - without.coef_.T).max() > 1


def test_characters_as_the_text_tower_sees_them(towers):
    tokenizer = TextTokenizer(towers[1])
    embeddings = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    vocabulary = CtcVocabulary(("<pad>", "|", "B", "bc", "?"), lower_case=True)
    vectors, rest = character_vectors(vocabulary, tokenizer, embeddings)
    (b, c, space, _) = tokenizer.encode(["bc "])[0]
    np.testing.assert_array_equal(rest, embeddings[tokenizer.unknown_id])
    expected = [
        rest,  # The blank adds nothing.
        embeddings[space],
        embeddings[b],
        (embeddings[b] + embeddings[c]) / 2,
        rest,  # What the tokenizer cannot spell.
    ]
    np.testing.assert_allclose(vectors, np.asarray(expected) - rest, atol=1e-6)
    tokenizer.unknown_id = None
    vectors, rest = character_vectors(vocabulary, tokenizer, embeddings)
    assert not rest.any()
    np.testing.assert_allclose(vectors[2], embeddings[b])


def test_tokens_of_the_text_tower_have_their_own_embeddings(towers):
    tokenizer = TextTokenizer(towers[1])
    embeddings = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    vocabulary = text_tower_vocabulary(["ba ce"], tokenizer)
    vectors, rest = character_vectors(vocabulary, tokenizer, embeddings)
    assert not vectors[vocabulary.blank].any()
    own = embeddings[list(vocabulary.text_ids[1:])]
    np.testing.assert_allclose(vectors[1:], own - rest, atol=1e-6)
    other = dataclasses.replace(
        vocabulary, text_ids=(-1, *reversed(vocabulary.text_ids[1:])), tokenizer_digest="another"
    )
    with pytest.raises(MrlError, match="in the text tower whose tokens the recogniser writes"):
        character_vectors(other, tokenizer, embeddings)


def test_tokens_of_a_started_head_are_the_regression(towers):
    speech, text = towers
    tokenizer = TextTokenizer(text)
    model = LateFusion(
        mrl_jax.load_hubert(speech),
        mrl_jax.load_qwen3(text),
        config=LateFusionConfig(end_token=0),
        rngs=nnx.Rngs(3),
    )
    batch = batch_of(model.speech, [(0, 1), (2, 3), (4,)])
    model.calibrate(batch.samples, batch.lengths)
    output = model.speech(batch.samples, batch.lengths)
    before = np.asarray(model.head(output.layer_states))
    init_from_ctc(model, speech, tokenizer, [batch, batch])
    tokens = np.asarray(model.head(output.layer_states))

    # The same by numpy, in float64, from unscaled states of valid frames only.
    recogniser = mrl_jax.load_hubert_ctc(speech)
    transcribed = recogniser(batch.samples, batch.lengths)
    logits = np.asarray(transcribed.logits, np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert recogniser.vocabulary is not None
    vectors, rest = character_vectors(
        recogniser.vocabulary, tokenizer, np.asarray(model.text.embed_tokens.embedding[...])
    )
    scale = np.asarray(model.head.layer_scale[...], np.float64)
    states = np.asarray(output.layer_states, np.float64) * scale[:, None, None, None]
    states = np.moveaxis(states, 0, 2).reshape(*logits.shape[:2], -1)
    mask = np.asarray(output.frame_mask)
    assert not mask.all()
    weights, bias = ridge(*moments(states[mask], (shares @ vectors)[mask]))
    frames = states @ weights + bias
    pairs = 2 * (frames.shape[1] // 2)
    expected = rest + frames[:, 0:pairs:2] + frames[:, 1:pairs:2]
    valid = mask[:, 0:pairs:2] & mask[:, 1:pairs:2]
    np.testing.assert_allclose(tokens[valid], expected[valid], atol=1e-4)
    assert np.abs(tokens - before)[valid].max() > 0.01


def test_what_cannot_be_started_from(towers, tmp_path):
    speech, text = towers
    model = LateFusion(
        mrl_jax.load_hubert(speech),
        mrl_jax.load_qwen3(text),
        config=LateFusionConfig(end_token=0),
        rngs=nnx.Rngs(3),
    )
    tokenizer = TextTokenizer(text)
    with pytest.raises(MrlError, match="expected a recogniser"):
        init_from_ctc(model, text, tokenizer, [])
    with pytest.raises(MrlError, match="no clip has a frame"):
        init_from_ctc(model, speech, tokenizer, [])
    batch = batch_of(model.speech, [(0,)])
    silent = dataclasses.replace(batch, lengths=jnp.zeros(1, jnp.int32))
    with pytest.raises(MrlError, match="no clip has a frame"):
        init_from_ctc(model, speech, tokenizer, [silent])
