"""A recogniser of a text tower's tokens on disk: old folders, export, decoding elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from descriptions import unsealed
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
from mrl_jax.data.text.train_tokenizer import Units, new_tokenizer
from mrl_jax.models.ctc import CtcVocabulary, character_vocabulary
from mrl_jax.models.init import initial_recogniser
from mrl_jax.models.text_vocabulary import text_tower_vocabulary

pytest.importorskip("tokenizers")
WHOLE = ["kitabu changu na", "na kitabu changu", "na na"]
PARTS = [*WHOLE, "ɛ̀ɔ́ 𐀀"]


def vocabulary_of(folder: Path, texts: list[str], units: Units = "pieces") -> CtcVocabulary:
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
    raw = json.loads(unsealed(tower / TOWER_FILE))
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
    assert back is not None
    assert back.text_ids == vocabulary.text_ids
    assert back.tokenizer_digest == vocabulary.tokenizer_digest
    assert [back.decode(row) for row in rows] == ours


@pytest.fixture(scope="module")
def with_parts(tmp_path_factory) -> CtcVocabulary:
    return vocabulary_of(tmp_path_factory.mktemp("parts"), PARTS)


def test_parts_of_characters_stay_bytes_and_the_export_says_so(with_parts, tmp_path, capsys):
    assert any("�" in with_parts.text_of(n) for n in range(len(with_parts.tokens)))
    out, line = exported(saved(tmp_path / "tower", with_parts), capsys)
    assert line.startswith("note: some tokens are parts of characters, which transformers")
    assert list(json.loads((out / "vocab.json").read_text())) == list(with_parts.tokens)
    convert(str(out), tmp_path / "back", family="hubert")
    assert read_info(tmp_path / "back").vocabulary == with_parts
    # Damaged options are one line.
    kept = (out / "tokenizer_config.json").read_text()
    for changes in ({"text_ids": ["a"]}, {"text_ids": [1]}, {"byte_level": 3}, {"text_ids": 4}):
        edit_json(out / "tokenizer_config.json", **changes)
        words = ["hubert", str(out), str(tmp_path / "new")]
        assert run_command(lambda argv: main(argv), words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "tokenizer_config.json: cannot be read as a recogniser's vocabulary" in line
        (out / "tokenizer_config.json").write_text(kept)


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


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_frames_decode_as_by_the_two_decoders_of_the_library(with_parts, data):
    """CTC, then byte level."""
    from tokenizers import decoders

    frames = data.draw(st.lists(st.integers(0, len(with_parts.tokens) - 1), max_size=16))
    ctc = decoders.CTC(pad_token="<pad>", word_delimiter_token="|", cleanup=False)
    kept = ctc.decode([with_parts.tokens[frame] for frame in frames])
    assert with_parts.decode(frames) == decoders.ByteLevel().decode([kept]).strip()
