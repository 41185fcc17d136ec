"""A recogniser's vocabulary of a text tower's tokens, against the tokenizers library."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer, tokenizer_digest
from mrl_jax.data.text.train_tokenizer import new_tokenizer
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.text_vocabulary import (
    check_tokenizer,
    text_tower_vocabulary,
    token_labels,
)

tokenizers = pytest.importorskip("tokenizers")
# Letters of two to four bytes and tones that combine: parts of characters become tokens.
TEXTS = ["kitabu changu", "ωέ na à̀ɛ", "ɛ̀ɔ́ 𐀀 k'i", "mɔ̀tɔ̀ kitabu", "na"]
LETTERS = sorted(set("".join(TEXTS)))


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for name, contents in files.items():
        (folder / name).write_text(contents)
    return folder


def save(folder: Path, made) -> Path:
    made.add_special_tokens(["<|endoftext|>"])
    return write(folder, {"tokenizer.json": made.to_str()})


def byte_level(prefix: bool):
    """Byte-level pairs as Qwen3's: the first word has no space before it, if not `prefix`."""
    level = tokenizers.pre_tokenizers.ByteLevel
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = level(add_prefix_space=prefix)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=262, initial_alphabet=level.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def metaspace():
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=60, special_tokens=["<unk>"], show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        "byte level": save(folder / "bytes", byte_level(False)),
        "pieces": write(folder / "pieces", new_tokenizer(TEXTS, units="pieces", max_pieces=270)),
        "metaspace": save(folder / "metaspace", metaspace()),
        "words": write(folder / "words", new_tokenizer(TEXTS, units="words")),
        "characters": write(folder / "characters", new_tokenizer(TEXTS, units="characters")),
    }


def vocabulary_of(folder: Path) -> tuple[CtcVocabulary, TextTokenizer]:
    tokenizer = TextTokenizer(folder)
    return text_tower_vocabulary(TEXTS, tokenizer), tokenizer


ALL = ("byte level", "pieces", "metaspace", "words", "characters")


@pytest.mark.parametrize("kind", ALL)
def test_labels_are_the_tokenizers_own_ids(folders, kind):
    vocabulary, tokenizer = vocabulary_of(folders[kind])
    library = tokenizers.Tokenizer.from_file(str(folders[kind] / "tokenizer.json"))
    labels = token_labels(TEXTS, vocabulary, tokenizer)
    for text, row in zip(TEXTS, labels, strict=True):
        ids = library.encode(text, add_special_tokens=False).ids
        assert [vocabulary.text_ids[output] for output in row] == ids
        assert (
            vocabulary.join(row) == library.normalizer.normalize_str(text)
            if (library.normalizer)
            else text
        )
    used = {i for text in TEXTS for i in library.encode(text, add_special_tokens=False).ids}
    assert vocabulary.text_ids == (-1, *sorted(used))
    assert vocabulary.blank == 0
    assert vocabulary.byte_level == (kind in ("byte level", "pieces"))
    assert vocabulary.tokenizer_digest == tokenizer_digest(folders[kind])


@pytest.mark.parametrize("kind", ["byte level", "pieces", "metaspace", "words"])
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_tokens_decode_as_in_the_library(folders, kind, data):
    """Most sequences are no text: bytes of half a character, marks of words one after another."""
    vocabulary, _ = vocabulary_of(folders[kind])
    library = tokenizers.Tokenizer.from_file(str(folders[kind] / "tokenizer.json"))
    outputs = data.draw(st.lists(st.integers(1, len(vocabulary.tokens) - 1), max_size=12))
    ids = [vocabulary.text_ids[output] for output in outputs]
    expected = library.decode(ids, skip_special_tokens=False).strip()
    assert vocabulary.join(outputs) == expected
    # Frames: every token stands for a while, with a blank behind it.
    frames = [output for token in outputs for output in (token, token, 0)]
    assert vocabulary.decode(frames) == expected


@pytest.mark.parametrize("kind", ["byte level", "pieces", "characters"])
@settings(deadline=None, max_examples=200)
@given(words=st.lists(st.text(st.sampled_from(LETTERS), min_size=1), min_size=1, max_size=4))
def test_any_text_comes_back(folders, kind, words):
    text = " ".join(" ".join(words).split())
    tokenizer = TextTokenizer(folders[kind])
    if kind == "characters":  # It knows no others than those that these texts are made of.
        known = set("".join(map(tokenizer.normalize, TEXTS)))
        text = "".join(x for x in tokenizer.normalize(text) if x in known).strip()
        assume(set(tokenizer.normalize(text)) <= known)  # Neighbours now may be one character.
    if text:
        vocabulary = text_tower_vocabulary([text], tokenizer)
        (labels,) = token_labels([text], vocabulary, tokenizer)
        assert vocabulary.join(labels) == tokenizer.normalize(text)


def test_parts_of_characters_are_tokens_here(folders):
    vocabulary, tokenizer = vocabulary_of(folders["byte level"])
    (labels,) = token_labels(["ωέ na à̀ɛ"], vocabulary, tokenizer)
    assert "�" in {vocabulary.join([label]) for label in labels}
    assert "�" not in vocabulary.join(labels)
    assert "Ġkitabu" in vocabulary_of(folders["pieces"])[0].tokens


def test_a_word_that_was_added_whole_is_written_as_it_is(tmp_path):
    """The library's byte-level decoder takes the é of an added token for a byte."""
    files = new_tokenizer(TEXTS, units="pieces", max_pieces=270, whole=["héé"])
    tokenizer = TextTokenizer(write(tmp_path, files))
    vocabulary = text_tower_vocabulary(["na héé na"], tokenizer)
    assert vocabulary.join(token_labels(["na héé na"], vocabulary, tokenizer)[0]) == "na héé na"


# --- Another text tower -----------------------------------------------------------------


def test_another_tokenizer_is_refused_and_the_same_tokens_are_not(folders, tmp_path):
    vocabulary, _ = vocabulary_of(folders["pieces"])
    with pytest.raises(MrlError, match=r"token \d+ is .*Take the text tower that the recogniser"):
        check_tokenizer(vocabulary, TextTokenizer(folders["byte level"]))
    characters = CtcVocabulary(("<pad>", "|", "a"))
    with pytest.raises(MrlError, match="tokens are not those of a text tower"):
        check_tokenizer(characters, TextTokenizer(folders["pieces"]))
    # What it appends to texts is no matter of its tokens.
    raw = json.loads((folders["pieces"] / "tokenizer.json").read_text())
    raw["truncation"] = None
    files = {"tokenizer.json": json.dumps(raw, indent=7)}
    changed = TextTokenizer(write(tmp_path, files))
    assert changed.digest != vocabulary.tokenizer_digest
    check_tokenizer(vocabulary, changed)


def test_tokens_that_the_recogniser_lacks_are_named(folders):
    tokenizer = TextTokenizer(folders["pieces"])
    vocabulary = text_tower_vocabulary(["na"], tokenizer)
    with pytest.raises(MrlError, match=r"transcript 'na kitabu': the recogniser has no '.*Ġ.*'"):
        token_labels(["na", "na kitabu"], vocabulary, tokenizer)


@pytest.mark.parametrize(
    ("kind", "named"), [("characters", "'x', 'y', 'z'"), ("words", "'xyz', 'zx'")]
)
def test_what_the_tokenizer_has_only_as_unknown_is_named(folders, kind, named):
    problem = f"has no tokens for {named}, which 1 of 2 transcripts have"
    with pytest.raises(MrlError, match=problem):
        text_tower_vocabulary(["na", "na xyz na zx"], TextTokenizer(folders[kind]))


def test_what_the_tokenizer_drops_is_named(tmp_path):
    made = byte_level(True)
    raw = json.loads(made.to_str())
    # Without the byte of "Z", which such a model leaves out in silence.
    raw["model"]["vocab"]["(unused)"] = raw["model"]["vocab"].pop("Z")
    made = tokenizers.Tokenizer.from_str(json.dumps(raw))
    with pytest.raises(MrlError, match=r"transcript 'naZ': has no tokens for 'Z'"):
        text_tower_vocabulary(["na", "naZ"], TextTokenizer(save(tmp_path, made)))


@pytest.mark.parametrize(
    ("decoder", "named"),
    [(tokenizers.decoders.WordPiece(), "WordPiece"), (None, "no decoder over a BPE")],
)
def test_other_decoders_are_refused_by_name(tmp_path, decoder, named):
    made = byte_level(True)
    if decoder is None:
        raw = {**json.loads(made.to_str()), "decoder": None}
        made = tokenizers.Tokenizer.from_str(json.dumps(raw))
    else:
        made.decoder = decoder
    with pytest.raises(MrlError, match=f"{named}.*ByteLevel or Metaspace"):
        text_tower_vocabulary(TEXTS, TextTokenizer(save(tmp_path, made)))


def test_nothing_to_spell_is_refused(folders):
    with pytest.raises(MrlError, match="no transcript has a token"):
        text_tower_vocabulary([""], TextTokenizer(folders["words"]))


def test_a_vocabulary_checks_itself(folders):
    vocabulary, _ = vocabulary_of(folders["pieces"])
    with pytest.raises(ValueError, match="1 text_ids for"):
        dataclasses.replace(vocabulary, text_ids=(1,))
    with pytest.raises(ValueError, match=re.escape("' ' stand for no byte")):
        dataclasses.replace(vocabulary, tokens=("<pad>", " "), text_ids=())
