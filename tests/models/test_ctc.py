"""The recogniser against transformers: its logits, and the text that they decode to."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import mrl_jax
from converters.convert import convert
from mrl_jax.models.ctc import CtcOutput, CtcVocabulary, HubertCtc, abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig

TOLERANCE = 1e-5  # Relative, float32.
DIFFERS = 1e-2
LENGTHS = (4000, 1111, 400)
SEED = 3
TINY = HubertConfig(width=32, num_layers=1, num_heads=4, mlp_width=48)
VOCABULARY = CtcVocabulary(tokens=tuple(published.CHARACTERS))


@pytest.fixture(scope="module", params=["base", "large"])
def recogniser(request, tmp_path_factory):
    """(ours, transformers', the converted folder)."""
    folder = tmp_path_factory.mktemp("ctc")
    changes = published.HUBERT_LARGE if request.param == "large" else {}
    theirs = published.torch_hubert(SEED, ctc=True, **changes)
    published.save(theirs, folder / "source")
    convert(str(folder / "source"), folder / "tower", family="hubert")
    return mrl_jax.load_hubert_ctc(folder / "tower"), theirs, folder


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, samples, lengths):
    return nnx.merge(graphdef, state)(samples, lengths)


def _run(model: HubertCtc, samples, lengths) -> CtcOutput:
    return _forward(*nnx.split(model), samples, lengths)


def _clips(lengths) -> list[np.ndarray]:
    rng = np.random.default_rng(SEED)
    return [rng.standard_normal(n, np.float32) for n in lengths]


def test_logits_and_transcripts_are_transformers(recogniser):
    """Clip by clip there, one padded batch here: padded frames must be cut before decoding."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    ours, theirs, folder = recogniser
    samples, lengths = mrl_jax.pad_clips(_clips(LENGTHS), ours.encoder.config)
    output = _run(ours, samples, lengths)
    assert output.logits.dtype == jnp.float32
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "source" / "vocab.json"))
    transcripts = []
    for row, length in enumerate(lengths):
        with torch.no_grad():
            logits = theirs(torch.from_numpy(samples[row : row + 1, :length])).logits
        mask = np.asarray(output.frame_mask)[row]
        assert mask.sum() == logits.shape[1]
        actual = np.asarray(output.logits)[row][mask]
        assert published.relative_error(actual, logits[0].numpy()) <= TOLERANCE
        transcripts += tokenizer.batch_decode(logits.argmax(-1).numpy())
    assert ours.decode(output) == transcripts
    assert len(transcripts[0]) > 3
    # Read to the end of the row, padding would add text.
    unmasked = CtcOutput(logits=output.logits, frame_mask=jnp.ones_like(output.frame_mask))
    assert ours.decode(unmasked)[0] == transcripts[0]
    assert ours.decode(unmasked)[1:] != transcripts[1:]


def test_output_layer_matters(recogniser):
    ours, _, _ = recogniser
    samples, lengths = mrl_jax.pad_clips(_clips(LENGTHS), ours.encoder.config)
    graphdef, state = nnx.split(ours)
    other = nnx.merge(graphdef, jax.tree.map(lambda x: x, state))  # Not the same variables.
    assert other.lm_head.bias is not None
    other.lm_head.bias[...] = other.lm_head.bias[...] + 1
    shifted = _run(other, samples, lengths).logits
    logits = _run(ours, samples, lengths).logits
    np.testing.assert_allclose(shifted, np.asarray(logits) + 1, atol=TOLERANCE)
    assert published.relative_error(shifted, logits) > DIFFERS


# --- Greedy decoding --------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, tuple]:
    """(transformers' tokenizer, our vocabulary) of the same tokens and options."""
    transformers = pytest.importorskip("transformers")
    folder: Path = tmp_path_factory.mktemp("tokenizers")
    # Capitals to be lowered, an apostrophe and marks that a text cleaner would pull together.
    capitals = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCÉ'.,?"]
    moved = ["a", "b", "|", "c", "[PAD]", "[UNK]"]
    cases = {
        "plain": (published.CHARACTERS, 0, "<pad>", "<unk>", "|", False),
        "lower case": (capitals, 0, "<pad>", "<unk>", "|", True),
        "capitals": (capitals, 0, "<pad>", "<unk>", "|", False),
        "blank elsewhere": (moved, 4, "[PAD]", "[UNK]", "|", False),
        "other delimiter": (moved, 4, "[PAD]", "[UNK]", "c", False),
    }
    made = {}
    for name, (tokens, blank, pad, unknown, delimiter, lower) in cases.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        tokenizer = transformers.Wav2Vec2CTCTokenizer(
            str(path),
            pad_token=pad,
            unk_token=unknown,
            word_delimiter_token=delimiter,
            do_lower_case=lower,
        )
        vocabulary = CtcVocabulary(
            tokens=tuple(tokens), blank=blank, word_delimiter=delimiter, lower_case=lower
        )
        made[name] = tokenizer, vocabulary
    return made


CASES = ["plain", "lower case", "capitals", "blank elsewhere", "other delimiter"]


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_decoding_is_transformers(tokenizers, case, data):
    tokenizer, vocabulary = tokenizers[case]
    tokens = st.integers(0, len(vocabulary.tokens) - 1)
    # Runs of one id: repeats are what frames are mostly made of.
    runs = data.draw(st.lists(st.tuples(tokens, st.integers(1, 3)), max_size=12))
    ids = [token for token, times in runs for _ in range(times)]
    assert vocabulary.decode(ids) == tokenizer.batch_decode([ids])[0]


@pytest.mark.parametrize("case", CASES)
def test_decoding_of_hard_cases_is_transformers(tokenizers, case):
    """Delimiters at the ends, doubled and blank-parted letters, and nothing at all."""
    tokenizer, vocabulary = tokenizers[case]
    blank = vocabulary.blank
    space = vocabulary.tokens.index(vocabulary.word_delimiter)
    a, b = [i for i, token in enumerate(vocabulary.tokens) if token.lower() in ("a", "b")]
    sequences = [
        [space, a, space],
        [space, space, blank, space, a, b, space, blank, space],
        [a, space, blank, space, b],
        [a, a, b, b],
        [a, blank, a],
        [blank, blank],
        [space],
        [],
    ]
    expected = tokenizer.batch_decode(sequences)
    assert [vocabulary.decode(np.array(ids, np.int64)) for ids in sequences] == expected
    # The list must tell merged letters from parted ones, and a space from two.
    letter, other = (vocabulary.decode([i]) for i in (a, b))
    assert set(expected) == {letter, letter + other, f"{letter}  {other}", 2 * letter, ""}


def test_decoding_options_matter():
    tokens = ("<pad>", "|", "A", "B")
    ids = [2, 0, 1, 2, 3]
    plain = CtcVocabulary(tokens=tokens)
    assert plain.decode(ids) == "A AB"
    assert CtcVocabulary(tokens=tokens, lower_case=True).decode(ids) == "a ab"
    assert CtcVocabulary(tokens=tokens, word_delimiter=None).decode(ids) == "A|AB"
    assert CtcVocabulary(tokens=tokens, blank=3).decode(ids) == "A<pad> A"


def _one_hot(ids) -> jax.Array:
    return jax.nn.one_hot(jnp.asarray(ids), len(VOCABULARY.tokens), dtype=jnp.float32)


@functools.cache
def _with_vocabulary(vocabulary: CtcVocabulary | None) -> HubertCtc:
    """A recogniser without weights, to be asked for nothing but to decode."""
    return abstract_hubert_ctc(TINY, len(VOCABULARY.tokens), vocabulary=vocabulary)


def test_masks_cut_padded_frames():
    ids = np.array([[5, 6, 7, 8], [5, 5, 9, 9], [5, 6, 7, 8]])
    mask = jnp.asarray([[True] * 4, [True, True, False, False], [False] * 4])
    actual = _with_vocabulary(VOCABULARY).decode(CtcOutput(logits=_one_hot(ids), frame_mask=mask))
    assert actual == ["abcd", "a", ""]
    everything = CtcOutput(logits=_one_hot(ids), frame_mask=jnp.ones_like(mask))
    assert _with_vocabulary(VOCABULARY).decode(everything) == ["abcd", "ae", "abcd"]


# --- Errors -----------------------------------------------------------------------------


def test_decoding_without_a_vocabulary_is_refused():
    output = CtcOutput(logits=_one_hot([[5, 6]]), frame_mask=jnp.ones((1, 2), jnp.bool_))
    assert _with_vocabulary(VOCABULARY).decode(output) == ["ab"]
    with pytest.raises(ValueError, match="no vocabulary: convert it from a folder"):
        _with_vocabulary(None).decode(output)


@pytest.mark.parametrize("size", [12, 14])
def test_a_vocabulary_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match=f"the vocabulary has 13 tokens, expected {size}"):
        abstract_hubert_ctc(TINY, size, vocabulary=VOCABULARY)


def test_a_vocabulary_of_the_same_size_is_kept():
    model = abstract_hubert_ctc(TINY, 13, vocabulary=VOCABULARY)
    assert model.vocabulary == VOCABULARY
    assert model.lm_head.kernel.shape == (32, 13)


@pytest.mark.parametrize("blank", [-1, 13])
def test_a_blank_out_of_range_is_refused(blank):
    with pytest.raises(ValueError, match=re.escape(f"blank is id {blank}, expected 0 to 12")):
        CtcVocabulary(tokens=VOCABULARY.tokens, blank=blank)
    assert CtcVocabulary(tokens=VOCABULARY.tokens, blank=12).decode([12, 5]) == "a"
