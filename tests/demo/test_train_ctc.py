"""The demo's CTC training: its loss against PyTorch, its encoding of text, and that it learns."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_ctc import TINY

from mrl_jax.core.errors import MrlError
from mrl_jax.demo.train_ctc import CtcStageConfig, initial_model, train_ctc, train_step
from mrl_jax.losses.ctc import ctc_losses
from mrl_jax.models.ctc import (
    CtcOutput,
    CtcVocabulary,
    HubertCtc,
    character_vocabulary,
    encode_transcripts,
    word_vocabulary,
)
from mrl_jax.models.init import filterbank_kernel, initial_recogniser
from mrl_jax.models.inputs import pad_clips
from mrl_jax.nn import param_tree
from mrl_jax.training.optim import decay_mask

STAGE = CtcStageConfig(steps=8, batch_sizes=(800,), max_labels=4, learning_rate=1e-2)
VOCABULARY = character_vocabulary(["a b", "b"])


def tone(hertz: float, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / 8000).astype(np.float32)


def batch(number: int) -> tuple[list[np.ndarray], list[str]]:
    rng = np.random.default_rng(number)
    texts = [["a", "b"][rng.integers(2)] for _ in range(8)]
    size = (350, 700)[number % 2]
    return [tone({"a": 300, "b": 1900}[text], size) for text in texts], texts


def mean_loss(model: HubertCtc) -> float:
    """Mean loss of a batch that training does not see."""
    clips, texts = batch(1001)
    labels, counts = encode_transcripts(texts, VOCABULARY, 4)
    graphdef, params = nnx.split(model)

    @jax.jit
    def mean(params, samples, lengths, labels, counts):
        output = nnx.merge(graphdef, params)(samples, lengths)
        return jnp.mean(ctc_losses(output, labels, counts, blank=0))

    return float(mean(params, *pad_clips(clips, TINY, size=800), labels, counts))


def random_case() -> tuple[CtcOutput, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    frames = np.array([12, 9, 7, 3, 12, 5])
    logits = jnp.asarray(rng.standard_normal((6, 12, 5)) * 3, jnp.float32)
    mask = jnp.arange(12)[None, :] < jnp.asarray(frames)[:, None]
    # Row 3 needs 4 frames and has 3; row 5 needs 5 (a pair of equals), and has just these.
    labels = np.array(
        [[1, 2, 3, 0], [4, 4, 1, 2], [2, 0, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0], [1, 1, 2, 3]]
    )
    counts = np.array([3, 4, 1, 4, 0, 4])
    return CtcOutput(logits=logits, frame_mask=mask), labels, counts, frames


def losses_of(logits, output: CtcOutput, labels, counts) -> jax.Array:
    return ctc_losses(
        CtcOutput(logits=logits, frame_mask=output.frame_mask),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(counts, jnp.int32),
        blank=0,
    )


def test_losses_and_gradient_equal_pytorch():
    torch = pytest.importorskip("torch")
    output, labels, counts, frames = random_case()
    ours = losses_of(output.logits, output, labels, counts)
    gradient = jax.grad(lambda x: jnp.sum(losses_of(x, output, labels, counts)))(output.logits)

    logits = torch.tensor(np.asarray(output.logits), requires_grad=True)

    def theirs(counts: np.ndarray):
        return torch.nn.functional.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            torch.tensor(labels),
            torch.tensor(frames),
            torch.tensor(counts),
            blank=0,
            reduction="none",
            zero_infinity=True,
        )

    expected = theirs(counts)
    expected.sum().backward()
    np.testing.assert_allclose(ours, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-5)
    # Must differ: one label fewer in the first row.
    fewer = theirs(counts - np.array([1, 0, 0, 0, 0, 0])).detach().numpy()
    assert abs(float(ours[0]) - fewer[0]) > 1e-2
    np.testing.assert_allclose(ours[1:], fewer[1:], rtol=1e-5, atol=1e-5)


def test_a_transcript_too_long_for_its_clip_counts_for_nothing():
    output, labels, counts, _ = random_case()
    losses = losses_of(output.logits, output, labels, counts)
    gradient = jax.grad(lambda x: jnp.sum(losses_of(x, output, labels, counts)))(output.logits)
    assert float(losses[3]) == 0
    assert not np.any(np.asarray(gradient[3]))
    # Must differ: the row whose frames just suffice, which one equal pair decides.
    assert 0 < float(losses[5]) < 1e3
    assert np.any(np.asarray(gradient[5]))


def test_padded_frames_have_no_gradient():
    output, labels, counts, frames = random_case()
    gradient = np.asarray(
        jax.grad(lambda x: jnp.sum(losses_of(x, output, labels, counts)))(output.logits)
    )
    for row, valid in enumerate(frames):
        assert not np.any(gradient[row, valid:])
    assert np.any(gradient[1, 8])


def test_text_to_ids_and_back():
    vocabulary = character_vocabulary(["trois un", "sept"])
    assert vocabulary.tokens[:2] == ("<pad>", "|")
    labels, counts = encode_transcripts(["un sept", "trois"], vocabulary, 9)
    assert labels.shape == (2, 9)
    assert counts.tolist() == [7, 5]
    assert vocabulary.decode(labels[0]) == "un sept"
    assert vocabulary.decode(labels[1]) == "trois"


def test_words_to_ids_and_back():
    vocabulary = word_vocabulary(["one two", "two oneness"])
    assert vocabulary.tokens == ("<pad>", "one ", "oneness ", "two ")
    labels, counts = encode_transcripts(["two one", "oneness", ""], vocabulary, 3)
    assert labels.tolist() == [[3, 1, 0], [2, 0, 0], [0, 0, 0]]
    assert counts.tolist() == [2, 1, 0]
    assert vocabulary.decode(labels[0]) == "two one"
    assert vocabulary.decode(labels[1]) == "oneness"
    with pytest.raises(MrlError, match="transcript 'one six': the vocabulary has no "):
        encode_transcripts(["one six"], vocabulary, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aXb", "transcript 'aXb': the vocabulary has no 'X'. Make the vocabulary"),
        ("ababa", "transcript 'ababa': has 5 tokens, more than the 4 there is room for"),
    ],
)
def test_bad_transcripts(text: str, message: str):
    with pytest.raises(MrlError, match=re.escape(message)):
        encode_transcripts([text], VOCABULARY, 4)


def test_a_vocabulary_without_spaces_refuses_one():
    vocabulary = CtcVocabulary(tokens=("<pad>", "a", "b"), word_delimiter=None)
    assert encode_transcripts(["ab"], vocabulary, 2)[0].tolist() == [[1, 2]]
    with pytest.raises(MrlError, match="transcript 'a b': the vocabulary has no ' '"):
        encode_transcripts(["a b"], vocabulary, 4)


def test_training_lowers_the_loss_and_a_seed_decides_the_weights():
    untrained = mean_loss(initial_recogniser(TINY, VOCABULARY, seed=0))
    model = train_ctc(TINY, VOCABULARY, batch, STAGE, progress=False)
    assert mean_loss(model) < 0.6 * untrained
    compiled = train_step._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    again = train_ctc(TINY, VOCABULARY, [batch(n) for n in range(8)], STAGE, progress=False)
    assert train_step._cache_size() == compiled  # pyright: ignore[reportAttributeAccessIssue]
    weights, others = param_tree.flat_weights(model), param_tree.flat_weights(again)
    for path, variable in weights.items():
        np.testing.assert_array_equal(variable[...], others[path][...], err_msg=path)


def test_a_running_mean_of_the_weights_follows_slowly():
    stage = dataclasses.replace(STAGE, steps=1, warmup_fraction=0.0, average_decay=0.75)
    head = train_ctc(TINY, VOCABULARY, batch, stage, progress=False).lm_head
    assert head.bias is not None
    bias = head.bias[...]
    # Adam's first step is the learning rate up or down; without the mean it would be all of it.
    np.testing.assert_allclose(np.abs(bias), 0.25 * STAGE.learning_rate, rtol=1e-3)


def test_initial_weights_have_the_shapes_of_the_module_and_keep_the_variance():
    drawn = param_tree.flat_weights(initial_recogniser(TINY, VOCABULARY, seed=0))
    built = nnx.eval_shape(
        lambda: HubertCtc(TINY, len(VOCABULARY.tokens), vocabulary=VOCABULARY, rngs=nnx.Rngs(0))
    )
    shapes = {path: leaf.shape for path, leaf in param_tree.flat_weights(built).items()}
    assert {path: leaf.shape for path, leaf in drawn.items()} == shapes
    up = np.asarray(drawn["encoder.layers.feed_forward.up.kernel"][...])
    assert up.shape == (1, 16, 32)
    assert up.std() == pytest.approx(0.25, rel=0.1)
    other = param_tree.flat_weights(initial_recogniser(TINY, VOCABULARY, seed=1))
    assert np.any(up != np.asarray(other["encoder.layers.feed_forward.up.kernel"][...]))
    assert not np.any(drawn["lm_head.bias"][...])
    assert np.all(drawn["encoder.position_conv.magnitude"][...] == 1)


def test_a_filterbank_covers_the_frequencies_in_every_phase():
    kernel = filterbank_kernel(128, 32, 8000)
    assert kernel.shape == (128, 1, 32)
    np.testing.assert_allclose(np.square(kernel).sum(axis=(0, 1)).mean(), 1, rtol=1e-5)
    peaks = np.abs(np.fft.rfft(kernel[:, 0], 8000, axis=0)).argmax(axis=0)
    assert peaks[0] < 150
    assert peaks[-1] == pytest.approx(3800, abs=10)
    assert np.all(np.diff(peaks[4::4]) > 0)
    # However a tone's wave stands, the four phases at its frequency see the same power.
    seconds = np.arange(128) / 8000
    power = []
    for shift in (0.0, 0.7, 2.0):
        wave = np.cos(2 * np.pi * peaks[16] * seconds + shift)
        power.append(np.square(np.maximum(wave @ kernel[:, 0, 16:20], 0)).sum())
    np.testing.assert_allclose(power, power[0], rtol=1e-2)


def test_the_filterbank_is_where_training_starts():
    stage = dataclasses.replace(STAGE, filterbank=True)
    kernels = [
        initial_model(TINY, VOCABULARY, s).encoder.feature_encoder.blocks[0].conv.kernel[...]
        for s in (stage, STAGE)
    ]
    np.testing.assert_array_equal(kernels[0], filterbank_kernel(20, 8, 8000))
    assert np.any(np.asarray(kernels[0] != kernels[1]))


def test_weight_decay_is_for_kernels():
    mask = decay_mask(nnx.state(initial_recogniser(TINY, VOCABULARY, seed=0)))
    flat = nnx.to_flat_state(mask)
    decayed = {".".join(map(str, path)) for path, leaf in flat if leaf.get_value()}
    paths = param_tree.flat_weights(initial_recogniser(TINY, VOCABULARY, seed=0))
    assert decayed == {path for path in paths if path.endswith(("kernel", "direction"))}
    assert len(decayed) == 11 < len(paths)


@pytest.mark.parametrize("at", [3, 7])
def test_a_loss_that_is_not_finite_stops_the_training(at: int):
    seen = []

    def batch_with_overflow(number: int):
        seen.append(number)
        clips, texts = batch(number)
        if number == at:  # Finite samples, whose sum is not.
            clips = [np.full_like(clip, 3e38) for clip in clips]
        return clips, texts

    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(MrlError, match=f"the loss of step {at} is nan, expected a finite number"),
    ):
        train_ctc(TINY, VOCABULARY, batch_with_overflow, STAGE, progress=False)
    # A batch is made ahead, and a loss is read one step late.
    assert len(seen) <= at + 3


def test_a_clip_longer_than_every_size_is_refused():
    stage = dataclasses.replace(STAGE, batch_sizes=(300,))
    with pytest.raises(MrlError, match=r"350 samples, more than the batch's 300"):
        train_ctc(TINY, VOCABULARY, batch, stage, progress=False)


def test_an_empty_stage_is_refused():
    with pytest.raises(MrlError, match="steps is 0"):
        CtcStageConfig(steps=0, batch_sizes=(800,), max_labels=4)
