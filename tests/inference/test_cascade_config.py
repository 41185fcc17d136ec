"""Cascades on disk: what is checked, and what is kept."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_cascade import make_parts, refused, write_config, written
from tiny_nllb import make_nllb

from mrl_jax.inference.cascade_config import (
    read_cascade,
)

CASCADE = "mrl_jax.inference.cascade_command"

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_parts(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    return make_nllb(tmp_path_factory.mktemp("nllb"))


def test_what_cannot_be_a_cascade_is_refused(root, nllb, tmp_path, capsys):
    speech, text = root / "towers" / "speech", root / "towers" / "text"
    description = json.loads((root / "recogniser" / "tower.json").read_text())
    shutil.copytree(root / "recogniser", tmp_path / "mute")
    (tmp_path / "mute" / "tower.json").write_text(json.dumps({**description, "vocabulary": None}))
    languages = ("source_language=wol_Latn", "target_language=fra_Latn")
    translator = f"translator={nllb[2]}"
    config = write_config(tmp_path / "tiny_config.py", root)
    for changes, message in (
        (["recogniser="], "recogniser and transcripts are both empty"),
        ([f"recogniser={text}"], "is a qwen3 tower, expected hubert_ctc"),
        ([f"recogniser={tmp_path / 'mute'}"], "the recogniser has no vocabulary"),
        ([f"recogniser={tmp_path / 'nowhere'}"], "tower.json: no such file"),
        ([f"text_tower={speech}"], "is a hubert_ctc tower, expected qwen3"),
        (["dims=64,8"], "dims has 64, expected at most 32"),
        (["dims=8,8"], "each once"),
        (["dims=[]"], "each once"),
        (["beam_size=0"], "beam_size is 0, expected 1 or more"),
        (["max_translation_tokens=0"], "max_translation_tokens is 0"),
        (["max_text_tokens=1"], "max_text_tokens is 1, expected 2 or more"),
        (["padding=none"], "padding is 'none', expected one of masked, reference"),
        (["dtype=float8"], "dtype is 'float8', expected float32, bfloat16 or none"),
        ([translator], "expected a folder and both languages"),
        ([translator, languages[0]], "expected a folder and both languages"),
        ([f"translator={root / 'model'}", *languages], "is no folder of CTranslate2's"),
        ([f"translator={nllb[2].with_name('source')}", *languages], "a checkpoint of transform"),
        ([translator, languages[1], "source_language=wo_Latn"], "Did you mean wol_Latn?"),
        ([translator, languages[0], "target_language=xyz"], "does not know the language 'xyz'"),
        ([translator, *languages, f"tokenizer={root}"], "tokenizer.json: no such file"),
        (["beams=2"], "the config has no field 'beams'. Did you mean"),
    ):
        words = (CASCADE, "--config", config, "--out", tmp_path / "run", *changes)
        assert message in refused(capsys, *words)
        assert not (tmp_path / "run").exists()
    words = (CASCADE, "--config", config, "--out", root / "model")
    assert "holds a trained model" in refused(capsys, *words)


def test_places_and_digests(root, tmp_path):
    """Paths are kept relative, so that a folder may move with its towers; names do not count."""
    shutil.copytree(root, tmp_path / "a")
    first = written(tmp_path / "a", tmp_path / "a" / "p")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = read_cascade(tmp_path / "b" / "p")
    assert moved.config.recogniser == "../recogniser"
    assert not first.exists()
    elsewhere = read_cascade(written(root, tmp_path / "c", name="other"))
    assert moved.digest == elsewhere.digest
    for change in ({"padding": "reference"}, {"max_text_tokens": 9}, {"dtype": "bfloat16"}):
        assert read_cascade(written(root, tmp_path / "c", **change)).digest != moved.digest
    # What is not read is not kept.
    fields = {"transcripts": "whisper", "source_language": "wol_Latn", "beam_size": 3}
    kept = read_cascade(written(root, tmp_path / "c", **fields))
    assert (kept.config.recogniser, kept.recogniser, kept.config.beam_size) == ("", None, 1)
    assert kept.config.source_language == ""
