"""A recogniser of a text tower's tokens on disk: old folders, export, and transformers' decoding."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import edit_json
from tiny_ctc import TINY

from converters.__main__ import main
from converters.convert import convert
from mrl_jax.checkpoints.new_towers import save_speech_tower
from mrl_jax.checkpoints.towers import TOWER_FILE, load_hubert_ctc, read_info
from mrl_jax.core.cli import run_command
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer
from mrl_jax.models.ctc import CtcVocabulary, character_vocabulary
from mrl_jax.models.init import initial_recogniser
from mrl_jax.models.text_vocabulary import text_tower_vocabulary

pytest.importorskip("tokenizers")
WHOLE = ["kitabu changu na", "na kitabu changu", "na na"]
PARTS = [*WHOLE, "ɛ̀ɔ́ 𐀀"]


def vocabulary_of(folder: Path, texts: list[str], units: str = "pieces") -> CtcVocabulary:
    folder.mkdir(exist_ok=True)
    for name, contents in new_tokenizer(texts, units=units, max_pieces=266).items():
        (folder / name).write_text(contents)
    return text_tower_vocabulary(texts, TextTokenizer(folder))


def saved(folder: Path, vocabulary: CtcVocabulary) -> Path:
    save_speech_tower(folder, initial_recogniser(TINY, vocabulary, 0))
    return folder


def exported(tower: Path, capsys) -> tuple[Path, str]:
    """By the command, with its last line."""
    out = tower.with_name(f"{tower.name}-exported")
    assert run_command(lambda argv: main(argv), ["export", str(tower), str(out)]) == 0
    return out, capsys.readouterr().out.strip().splitlines()[-1]


def test_old_folders_load_as_before(tmp_path):
    """A tower.json of before there were tokens of a text tower."""
    tower = saved(tmp_path / "tower", character_vocabulary(WHOLE))
    raw = json.loads((tower / TOWER_FILE).read_text())
    expected = read_info(tower)
    for name in ("byte_level", "text_ids", "tokenizer_digest"):
        del raw["vocabulary"][name]
    (tower / TOWER_FILE).write_text(json.dumps(raw))
    assert read_info(tower) == expected
    assert load_hubert_ctc(tower).vocabulary == character_vocabulary(WHOLE)
    options = json.loads((tower / "tokenizer_config.json").read_text())
    assert set(options) == {"pad_token", "word_delimiter_token", "do_lower_case"}


@pytest.mark.parametrize("units", ["pieces", "words", "characters"])
def test_whole_characters_become_texts_that_transformers_joins(units, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    vocabulary = vocabulary_of(tmp_path / "text", WHOLE, units)
    out, line = exported(saved(tmp_path / "tower", vocabulary), capsys)
    assert not line.startswith("note:")
    raw = json.loads((out / "vocab.json").read_text())
    assert list(raw)[1:] == [vocabulary.text_of(n) for n in range(1, len(raw))]
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(out / "vocab.json"),
        pad_token="<pad>",
        unk_token="<pad>",
        bos_token=None,
        eos_token=None,
        word_delimiter_token=None,
    )
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(vocabulary.tokens), (200, 12)).repeat(2, axis=1)
    ours = [vocabulary.decode(row) for row in rows]
    theirs = [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in rows]
    assert ours == [text.strip() for text in theirs]
    # And back: the texts instead of their bytes, which decode to the same.
    convert(str(out), tmp_path / "back", family="hubert")
    back = read_info(tmp_path / "back").vocabulary
    assert back.text_ids == vocabulary.text_ids
    assert back.tokenizer_digest == vocabulary.tokenizer_digest
    assert [back.decode(row) for row in rows] == ours


def test_parts_of_characters_stay_bytes_and_the_export_says_so(tmp_path, capsys):
    vocabulary = vocabulary_of(tmp_path / "text", PARTS)
    assert any("�" in vocabulary.text_of(n) for n in range(len(vocabulary.tokens)))
    out, line = exported(saved(tmp_path / "tower", vocabulary), capsys)
    assert line.startswith("note: some tokens are parts of characters, which transformers")
    assert list(json.loads((out / "vocab.json").read_text())) == list(vocabulary.tokens)
    convert(str(out), tmp_path / "back", family="hubert")
    assert read_info(tmp_path / "back").vocabulary == vocabulary


def test_two_outputs_of_one_token_have_no_vocab_json(tmp_path, capsys):
    """A token of the tokenizer's own, and one that was added whole."""
    tokens = ("<pad>", "na", "na")
    vocabulary = CtcVocabulary(
        tokens, word_delimiter=None, byte_level=True, text_ids=(-1, 4, 9), tokenizer_digest="x"
    )
    out, line = exported(saved(tmp_path / "tower", vocabulary), capsys)
    assert line == "note: two outputs write the same token, so there is no vocab.json"
    assert not (out / "vocab.json").exists()
    assert load_hubert_ctc(tmp_path / "tower").vocabulary == vocabulary


@pytest.mark.parametrize(
    "changes", [{"text_ids": ["a"]}, {"text_ids": [1]}, {"byte_level": 3}, {"text_ids": 4}]
)
def test_damaged_options_are_one_line(changes, tmp_path, capsys):
    vocabulary = vocabulary_of(tmp_path / "text", PARTS)
    out, _ = exported(saved(tmp_path / "tower", vocabulary), capsys)
    edit_json(out / "tokenizer_config.json", **changes)
    assert run_command(lambda argv: main(argv), ["hubert", str(out), str(tmp_path / "new")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "tokenizer_config.json: cannot be read as a recogniser's vocabulary" in line


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_tokenizer_of_both_steps_would_decode_the_same(tmp_path_factory, data):
    """The library's own CTC and byte-level decoders in a row, over the outputs of a recogniser."""
    import tokenizers

    folder = tmp_path_factory.getbasetemp() / "both"
    vocabulary = vocabulary_of(folder, PARTS)
    decoders = tokenizers.decoders
    both = decoders.Sequence(
        [decoders.CTC(pad_token="<pad>", word_delimiter_token="|", cleanup=False)]
    )
    frames = data.draw(st.lists(st.integers(0, len(vocabulary.tokens) - 1), max_size=16))
    kept = both.decode([vocabulary.tokens[frame] for frame in frames])
    assert vocabulary.decode(frames) == decoders.ByteLevel().decode([kept]).strip()
