"""The small towers that come with the project, and the files that such towers are kept in."""

import json
from pathlib import Path

import numpy as np
import pytest

import mrl_jax
from converters.convert import convert
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.cli import run_command
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.demo.digits import english, french, split_strings
from mrl_jax.demo.spoken_digits import SPEECH, main, split_takes, write_test
from mrl_jax.demo.towers import GAP_TOKEN, make_tokenizer, open_tokenizer

TOWERS = Path(mrl_jax.__file__).parent / "demo" / "towers_hf"


def test_the_towers_of_the_demo_convert(tmp_path):
    for family, name, kind in (("hubert", "speech", "hubert_ctc"), ("qwen3", "text", "qwen3")):
        report = convert(str(TOWERS / name), tmp_path / name, family=family)
        assert report["kind"] == kind
        assert read_info(tmp_path / name).dtype == "float16"
        size = sum(path.stat().st_size for path in (TOWERS / name).iterdir())
        assert size < 3e6, "what lives in the repository stays small"
    # They really were trained: the recogniser knows the letters of the demo's Wolof.
    vocabulary = json.loads((TOWERS / "speech" / "vocab.json").read_text(encoding="utf-8"))
    assert {"ñ", "ë", "|", "<pad>"} <= set(vocabulary)
    tokenizer = TextTokenizer(tmp_path / "text")
    wolof, french = tokenizer.encode(["fan la ñuy jaaye dugub", "Où vend-on le mil ?"])
    assert len(wolof) == len("fan la ñuy jaaye dugub") + 1  # Spelled.
    words = ["où", " ", "vend", "-", "on", " ", "le", " ", "mil", " ", "?"]
    assert len(french) == len(words) + 1  # Read by words.
    assert wolof[-1] == french[-1] == tokenizer.end_id == 0
    assert GAP_TOKEN not in (*wolof, *french)


def test_made_tokenizers_spell_by_character_or_by_word():
    texts = ["Deux un", "un Trois"]
    characters, size = open_tokenizer(make_tokenizer(texts))
    assert size == 2 + len(set("deux un trois"))
    assert len(characters.encode(["un trois"])[0]) == 9
    words, size = open_tokenizer(make_tokenizer(texts, words=True))
    assert size == 5
    assert words.encode(["UN quatre deux"])[0] == [4, GAP_TOKEN, 2, 0]
    mixed, more = open_tokenizer(make_tokenizer(texts, whole=["trois", "eu"]))
    assert more == 2 + len(set("deux un trois")) + 2
    spelled, whole = mixed.encode(["Deux un", "Trois un"])
    assert len(spelled) == 8  # A whole word is not found within another.
    assert len(whole) == 5
    assert whole[0] == more - 2


def takes():
    from mrl_jax.demo.digits import Take

    clip = np.full(800, 0.1, np.float32)
    return [Take(d, who, n, clip) for d in range(10) for who in ("ann", "bob") for n in range(7)]


def test_no_take_and_no_speaker_is_on_both_sides():
    for left_out in (None, "ann"):
        training, testing = split_takes(takes(), left_out)
        sides = [{(t.digit, t.speaker, t.take) for t in side} for side in (training, testing)]
        assert not sides[0] & sides[1]
        assert len(sides[0]) + len(sides[1]) == 140
    assert {take.speaker for take in testing} == {"ann"}
    assert {take.speaker for take in training} == {"bob"}


def test_the_test_set_asks_unseen_strings_of_all_wordings(tmp_path):
    from mrl_jax.data.sets.retrieval_set import read_retrieval_set
    from mrl_jax.demo.digits import DigitVoices

    seen, unseen = split_strings()
    write_test(tmp_path, DigitVoices(takes()), unseen)
    data = read_retrieval_set(tmp_path)
    assert len(data.queries) == 200
    assert len(data.corpus) == 1000
    transcripts = {query.transcript for query in data.queries}
    assert transcripts == {english(string) for string in unseen}
    assert not transcripts & {english(string) for string in seen}
    answers = {doc.id: doc.text for doc in data.corpus}
    for query in data.queries:
        (answer,) = data.qrels[query.id]
        assert answers[answer] == french(answer)
        assert query.transcript == english(answer)


def test_the_speech_tower_of_the_digits_reads_them_at_their_rate():
    assert SPEECH.sample_rate == 8000
    assert SPEECH.frame_count(8000) == pytest.approx(25, abs=2)


def test_unknown_speakers_and_folders_are_refused(tmp_path, capsys):
    assert run_command(main, ["--recordings", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "holds no recording" in capsys.readouterr().err
