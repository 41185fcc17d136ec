"""Soft tokens against a plain loop over frames; what may not change them; what is trained."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny_fusion import SPEECH, drawn_towers, tiny_batch
from tiny_soft import (
    BLANK,
    EVERY_FRAME,
    OUTPUTS,
    REST,
    drawn_recogniser,
    soft_config,
    soft_model,
)

from mrl_jax.core.batch import Batch, StoredSpeech
from mrl_jax.models.ctc import HubertCtc
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.soft_ctc import ATTENTION, SoftCtc
from mrl_jax.nn import param_tree

ROWS, FRAMES = 3, 31
PARTS = ("down", "up")
LORA = [f"head.lora.{name}_{part}" for name in ATTENTION for part in PARTS]
ALWAYS = ["head.logit_bias", "head.logit_scale"]


def changed(model: SoftCtc, seed: int = 0, size: float = 0.3) -> SoftCtc:
    """The model after some training: every trained leaf is moved."""
    rng = np.random.default_rng(seed)
    for path, leaf in sorted(param_tree.flat_weights(model).items()):
        if isinstance(leaf, nnx.Param):
            noise = size * rng.normal(size=leaf.shape)
            leaf.set_value(leaf.get_value() + jnp.asarray(noise, jnp.float32))
            assert leaf.dtype == jnp.float32, path
    return model


def jitted(model: nnx.Module, method: str) -> Callable[..., Any]:
    parts = param_tree.split(model)

    @jax.jit
    def run(trained, frozen, *inputs):
        return getattr(parts.rebuild(trained, frozen), method)(*inputs)

    return lambda *inputs: jax.tree.map(np.asarray, run(parts.trained, parts.frozen, *inputs))


def states_of(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Layer states in which frames stay alike for a while, and the frames of each row."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(SPEECH.num_layers, ROWS, FRAMES, SPEECH.width))
    moves = rng.random((1, ROWS, FRAMES, 1)) < 0.4
    held = np.zeros_like(steps)
    for frame in range(FRAMES):
        before = held[:, :, max(frame - 1, 0)]
        held[:, :, frame] = np.where(moves[:, :, frame] | (frame == 0), steps[:, :, frame], before)
    held += 0.05 * rng.normal(size=held.shape)
    return held.astype(np.float32), np.asarray([FRAMES, FRAMES - 6, 12])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = [math.exp(value - max(logits)) for value in logits]
    return np.asarray(powers) / sum(powers)


def speech_output(model: SoftCtc, batch: Batch) -> Any:
    """What the model's speech tower gives, compiled."""
    split = param_tree.split(model)
    run = jax.jit(lambda *arrays: split.rebuild(*arrays[:2]).speech(*arrays[2:]))
    return run(split.trained, split.frozen, batch.samples, batch.lengths)


def tokens_by_hand(model: Any, states: np.ndarray, frames: int, row: int) -> list[np.ndarray]:
    """The speech tokens of one clip, frame by frame, without a bound."""
    config, head = model.config, model.head
    weights = {path: np.asarray(leaf[...], np.float64) for path, leaf in all_leaves(model)}
    embedding = weights["text.embed_tokens.embedding"]
    scale, bias = weights["head.logit_scale"], weights["head.logit_bias"]
    runs: list[list[int]] = []
    probabilities: list[np.ndarray] = []
    added: list[np.ndarray] = []
    before = None
    for frame in range(frames):
        here = states[:, row, frame].astype(np.float64)
        last = here[-1]
        if model.speech.config.pre_norm:
            centred = last - last.mean()
            last = centred / np.sqrt(np.mean(centred**2) + SPEECH.norm_epsilon)
            last = last * weights["speech.encoder_norm.scale"] + weights["speech.encoder_norm.bias"]
        logits = last @ weights["ctc.kernel"] + weights["ctc.bias"]
        moved = logits * scale + bias
        if head.residual is not None:
            read = (here * weights["head.layer_scale"][:, None]).reshape(-1)
            change = read @ weights["head.residual.kernel"]
            if config.residual == "logits":
                moved = moved + change
            else:
                added.append(change)
        probabilities.append(softmax(moved))
        if config.compress_blank is None:
            if frame % 2:
                runs.append([frame - 1, frame])
            continue
        best = int(np.argmax(logits))
        if softmax(logits)[BLANK] > config.compress_blank:
            before = None
        elif best == before:
            runs[-1].append(frame)
        else:
            runs.append([frame])
            before = best
    tokens = []
    for run in runs:
        mean = np.sum([probabilities[frame] for frame in run], axis=0) / len(run)
        if config.compress_blank is not None:
            mean[BLANK] *= config.blank_weight
            mean = mean / mean.sum()
        token = np.zeros(embedding.shape[1])
        for output, ids in enumerate(OUTPUTS):
            spelled = ids if output != BLANK else () if config.rest is None else (config.rest,)
            for token_id in spelled:
                token += mean[output] * embedding[token_id] / len(spelled)
        if added:
            token += np.sum([added[frame] for frame in run], axis=0) / len(run)
        tokens.append(token)
    return tokens


def all_leaves(model: nnx.Module) -> list[tuple[str, nnx.Variable[Any]]]:
    return [(param_tree.dotted(path), leaf) for path, leaf in nnx.to_flat_state(nnx.state(model))]


CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "strict": {"compress_blank": 0.05},
    "nothing dropped": {"compress_blank": 1.0, "blank_weight": 1.0},
    "no blank in a token": {"blank_weight": 0.0},
    "zeros for silence": {"rest": None, "blank_weight": 0.5},
    "warm": {"logit_temperature": 3.0},
    "pairs": {"compress_blank": None},
    "pairs, frames": {"compress_blank": None, "residual": "frames"},
    "logits": {"residual": "logits"},
    "frames": {"residual": "frames"},
    "pre-norm": {"pre_norm": True, "residual": "logits"},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_tokens_are_those_of_a_plain_loop_over_frames(options):
    model: Any = changed(soft_model(**options))
    if model.head.residual is not None:
        model.head.layer_scale[...] = jnp.asarray([0.5, 2.0], jnp.float32)
    if model.speech.config.pre_norm:
        model.speech.encoder_norm.scale[...] *= 1.5
    states, frames = states_of()
    mask = np.arange(FRAMES)[None, :] < frames[:, None]
    speech = jitted(model, "speech_tokens")(states, mask)
    assert not speech.lost.any()
    for row in range(ROWS):
        expected = tokens_by_hand(model, states, frames[row], row)
        assert speech.counts[row] == len(expected)
        np.testing.assert_allclose(speech.vectors[row, : len(expected)], expected, atol=2e-6)
    if model.config.compress_blank is None:
        assert speech.counts.tolist() == [15, 12, 6]
    elif model.config.compress_blank < 1:  # Some frames are dropped, others are one token.
        assert 0 < speech.counts.min() < speech.counts.max() < 20


def test_a_bound_that_cuts_keeps_the_first_tokens_and_counts_the_others():
    states, frames = states_of()
    mask = np.arange(FRAMES)[None, :] < frames[:, None]
    whole = jitted(soft_model(), "speech_tokens")(states, mask)
    cut = jitted(soft_model(max_tokens_per_second=EVERY_FRAME / 5), "speech_tokens")(states, mask)
    room = [7, 5, 3]  # A fifth of the row's own frames, rounded up.
    assert cut.vectors.shape[1] == 7
    assert (whole.counts > room).any()
    for row, most in enumerate(room):
        assert cut.counts[row] == min(whole.counts[row], most)
        assert cut.lost[row] == max(whole.counts[row] - most, 0)
        kept = slice(cut.counts[row])
        np.testing.assert_allclose(cut.vectors[row, kept], whole.vectors[row, kept], atol=1e-6)
    pairs = soft_model(compress_blank=None, max_tokens_per_second=EVERY_FRAME / 5)
    counted = jitted(pairs, "speech_tokens")(states, mask)
    assert counted.counts.tolist() == room
    assert counted.lost.tolist() == [8, 7, 3]


@pytest.mark.parametrize(
    ("compress", "room", "may"),
    [(0.5, 1.0, False), (0.5, 0.99, True), (None, 0.5, False), (None, 0.49, True)],
)
def test_whether_a_clip_can_lose_tokens(compress, room, may):
    model = soft_model(compress_blank=compress, max_tokens_per_second=room * EVERY_FRAME)
    assert model.may_lose is may


def test_a_clip_of_blanks_alone_is_embedded_as_its_prompt():
    model: Any = soft_model()
    bias = np.zeros(len(OUTPUTS), np.float32)
    bias[BLANK] = 50
    model.ctc.bias[...] = jnp.asarray(bias)
    batch = tiny_batch(ROWS)
    assert not jitted(model, "tokens_of_speech")(batch.samples, batch.lengths).counts.any()
    embed = jitted(model, "embed_speech")
    silent = embed(batch.samples, batch.lengths, batch.prompt, batch.prompt_mask)
    text = jitted(model, "embed_text")
    for row in range(ROWS):
        ids = [*batch.prompt[row][batch.prompt_mask[row]].tolist(), 30]
        [alone] = text(np.asarray([ids], np.int32), np.ones((1, len(ids)), np.bool_))
        np.testing.assert_allclose(silent[row], alone, atol=1e-6)
    without = embed(batch.samples, batch.lengths)
    np.testing.assert_allclose(np.linalg.norm(without, axis=1), 1, atol=1e-6)


SHORT, LONG = 240, 320
PADDED: dict[str, dict[str, Any]] = {
    "usual": {"residual": "frames", "lora_rank": 2},
    "a bound": {"max_tokens_per_second": EVERY_FRAME / 4},
    "pairs, pre-norm": {"compress_blank": None, "pre_norm": True},
}


@pytest.fixture(scope="module", params=PADDED.values(), ids=list(PADDED))
def embed(request) -> Callable[..., Any]:
    return jitted(changed(soft_model(**request.param)), "embed_speech_and_lost")


def clips(lengths: list[int], size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    samples = np.random.default_rng(seed).normal(size=(ROWS, LONG)).astype(np.float32)
    mask = np.arange(LONG)[None, :] < np.asarray(lengths)[:, None]
    return np.where(mask, samples, 0)[:, :size], np.asarray(lengths, np.int32)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(60, SHORT), min_size=ROWS, max_size=ROWS),
    st.permutations(range(ROWS)),
    st.integers(60, SHORT),
    st.integers(0, 99),
)
def test_padding_and_batch_mates_do_not_matter(embed, lengths, order, other, seed):
    vectors, lost = embed(*clips(lengths, SHORT, seed))
    longer, lost_longer = embed(*clips(lengths, LONG, seed))
    np.testing.assert_allclose(vectors, longer, atol=1e-5)
    np.testing.assert_array_equal(lost, lost_longer)
    samples, sizes = clips(lengths, LONG, seed)
    mates, _ = clips([LONG] * ROWS, LONG, seed + 100)
    rows = list(order)
    samples, sizes = samples[rows], sizes[rows]
    samples[1:], sizes[1:] = mates[1:], other
    samples = np.where(np.arange(LONG)[None, :] < sizes[:, None], samples, 0)
    [moved, *_], [lost_moved, *_] = embed(samples, sizes)
    np.testing.assert_allclose(vectors[rows[0]], moved, atol=1e-5)
    assert lost[rows[0]] == lost_moved


def test_a_mesh_and_pmap_give_what_one_device_gives():
    model = changed(soft_model(residual="logits", lora_rank=2))
    batch = tiny_batch(4)
    inputs = (batch.samples, batch.lengths, batch.prompt, batch.prompt_mask)
    one = jitted(model, "embed_speech")(*inputs)
    parts = param_tree.split(model)

    def run(*inputs):
        return parts.rebuild(parts.trained, parts.frozen).embed_speech(*inputs)

    mesh = Mesh(np.asarray(jax.devices()[:2]), ("rows",))
    places = NamedSharding(mesh, PartitionSpec("rows"))
    spread = jax.jit(run, out_shardings=places)(*(jax.device_put(x, places) for x in inputs))
    assert len(spread.sharding.device_set) == 2
    np.testing.assert_allclose(one, spread, atol=1e-6)
    halves = [x.reshape(2, 2, *x.shape[1:]) for x in inputs]
    mapped = jax.pmap(run, devices=jax.devices()[:2])(*halves)
    np.testing.assert_allclose(one, np.concatenate(list(mapped)), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, []),
        ({"residual": "logits"}, ["head.residual.kernel"]),
        ({"residual": "frames", "learn_temperature": True}, ["head.residual.kernel"]),
        ({"compress_blank": None, "lora_rank": 2}, LORA),
        ({"residual": "logits", "lora_rank": 2}, ["head.residual.kernel", *LORA]),
    ],
)
def test_the_gradient_reaches_what_is_trained_and_nothing_else(options, more):
    model = changed(soft_model(**options), size=0.05)
    parts = param_tree.split(model)
    learned = ["log_temperature"] * options.get("learn_temperature", False)
    assert sorted(param_tree.flatten(parts.trained)) == sorted([*ALWAYS, *more, *learned])
    frozen = {path.split(".")[0] for path in parts.frozen if path != "head.layer_scale"}
    assert frozen == {"speech", "ctc", "text"}
    batch = tiny_batch(ROWS)

    @jax.jit
    @jax.grad
    def gradient(trained):
        model = parts.rebuild(trained, parts.frozen)
        embedding = model.embed_speech(batch.samples, batch.lengths)
        return jnp.sum(jnp.sin(3 * embedding)) * model.temperature(1.0)

    for path, leaf in param_tree.flatten(gradient(parts.trained)).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 1e-6, path


def embeddings(model: SoftCtc) -> tuple[np.ndarray, np.ndarray]:
    batch = tiny_batch(ROWS)
    inputs = (batch.samples, batch.lengths, batch.prompt, batch.prompt_mask)
    speech = jitted(model, "embed_speech")(*inputs)
    return speech, jitted(model, "embed_text")(batch.document, batch.document_mask)


@pytest.mark.parametrize("residual", ["logits", "frames"])
def test_new_weights_change_nothing_to_the_bit(residual):
    speech, text = embeddings(soft_model())
    for again, same in (
        embeddings(soft_model(lora_rank=3)),
        embeddings(soft_model(residual=residual)),
    ):
        np.testing.assert_array_equal(speech, again)
        np.testing.assert_array_equal(text, same)


@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}, {"residual": "frames"}])
def test_trained_weights_change_speech_and_leave_texts_as_they_are_to_the_bit(options):
    speech, text = embeddings(soft_model(**options))
    moved, same = embeddings(changed(soft_model(**options)))
    assert (np.abs(moved - speech).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(text, same)


def test_lora_is_a_change_of_the_attention_weights():
    model = changed(soft_model(lora_rank=2))
    expected = {path: np.array(leaf[...]) for path, leaf in all_leaves(model.text)}
    for name in ATTENTION:
        down, up = (np.asarray(getattr(model.head.lora, f"{name}_{part}")[...]) for part in PARTS)
        for layer in range(len(down)):
            expected[f"layers.attention.{name}.kernel"][layer] += down[layer] @ up[layer]
    adapted = dict(all_leaves(model.speech_reader))
    assert adapted.keys() == expected.keys()
    for path, leaf in adapted.items():
        np.testing.assert_allclose(np.asarray(leaf[...]), expected[path], atol=1e-5)


@pytest.mark.parametrize("residual", ["logits", "frames"])
def test_folded_factors_give_the_same_vectors(residual):
    model = changed(soft_model(residual=residual))
    model.head.layer_scale[...] = jnp.asarray([0.5, 2.0], jnp.float32)
    before, _ = embeddings(model)
    folded = model.head.fold()
    assert list(folded) == ["residual.kernel"]
    model.head.residual.kernel[...] = jnp.asarray(folded["residual.kernel"])
    unscaled, _ = embeddings(model)
    assert np.abs(before - unscaled).max() > 1e-4  # The factors would count twice.
    model.head.layer_scale[...] = jnp.ones(SPEECH.num_layers, jnp.float32)
    after, _ = embeddings(model)
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_a_head_without_residual_has_nothing_to_calibrate():
    model = soft_model(lora_rank=1)
    batch = tiny_batch(ROWS)
    model.calibrate(batch.samples, batch.lengths)
    np.testing.assert_array_equal(model.head.layer_scale[...], 1)
    assert model.head.fold() == {}


@pytest.mark.parametrize("pre_norm", [False, True])
def test_what_a_cache_holds_gives_the_same_vectors(pre_norm):
    model = changed(soft_model(pre_norm=pre_norm, residual="logits"))
    batch = tiny_batch(ROWS)
    output = speech_output(model, batch)
    # As `data.cache.speech` keeps them: [B, T, Y, D], frames beyond a clip's own left out.
    stored = StoredSpeech(
        states=np.moveaxis(np.asarray(output.layer_states), 0, 2),
        frames=np.asarray(output.frame_mask).sum(axis=1).astype(np.int32),
        scales=None,
    )
    prompt = (batch.prompt, batch.prompt_mask)
    cached = jitted(model, "embed_cached")(stored, *prompt)
    computed = jitted(model, "embed_speech")(batch.samples, batch.lengths, *prompt)
    np.testing.assert_allclose(cached, computed, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_towers_are_near_float32_ones():
    exact: Any = changed(soft_model(residual="logits", lora_rank=2, compress_blank=None), size=0.05)
    dtype = jnp.bfloat16
    with jax.ensure_compile_time_eval():
        held: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
        recogniser = HubertCtc(exact.speech.config, len(OUTPUTS), **held)
        text = Qwen3Encoder(exact.text.config, **held)
    rough = SoftCtc(
        param_tree.freeze(recogniser),
        param_tree.freeze(text),
        config=exact.config,
        rngs=nnx.Rngs(0),
    )
    exact_leaves = dict(all_leaves(exact))
    for path, leaf in all_leaves(rough):
        trained = path.startswith("head.")
        leaf.set_value(exact_leaves[path][...].astype(jnp.float32 if trained else dtype))
    ours, theirs = embeddings(rough)[0], embeddings(exact)[0]
    assert ours.dtype == np.float32
    cosines = np.sum(ours * theirs, axis=1)
    assert (cosines > 0.99).all()
    assert np.abs(ours - theirs).max() > 1e-5  # Its towers do compute in bfloat16.


def test_the_fewest_samples():
    config = SPEECH
    assert soft_model().min_samples == config.min_samples
    pairs = soft_model(compress_blank=None)
    assert pairs.min_samples == config.min_samples + config.frame_samples
    assert config.frame_count(pairs.min_samples) == 2
    assert config.frame_count(pairs.min_samples - 1) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outputs": OUTPUTS[:-1]}, "tokens for 5 outputs, expected 6"),
        ({"outputs": (*OUTPUTS[:-1], (31,))}, "tokens 1 to 31, expected 0 to 30"),
        ({"rest": -1}, "tokens -1 to 29, expected 0 to 30"),
        ({"blank": 6}, "blank is output 6, expected 0 to 5"),
        ({"end_token": None}, "end_token is None"),
        ({"end_token": 31}, "end_token is 31, expected 0 to 30"),
    ],
)
def test_a_config_that_does_not_fit_the_towers(options, words):
    config = dataclasses.replace(soft_config(), **options)
    with pytest.raises(ValueError, match=words):
        SoftCtc(drawn_recogniser(), drawn_towers()[1], config=config, rngs=nnx.Rngs(0))


def test_the_blank_is_silence_where_there_is_a_token_for_it():
    model = soft_model()
    table = np.asarray(model.token_table())
    embedding = np.asarray(model.text.embed_tokens.embedding[...])
    np.testing.assert_allclose(table[BLANK], embedding[REST], atol=1e-7)
    np.testing.assert_allclose(table[1], (embedding[7] + embedding[8]) / 2, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(soft_model(rest=None).token_table())[BLANK], 0)
