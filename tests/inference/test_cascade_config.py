"""Cascades on disk: what is checked, and what is kept."""

import json
import re
import shutil

import pytest
from descriptions import unsealed
from tiny_cascade import refused, write_config, written

from mrl_jax.core.config import load_config
from mrl_jax.core.errors import MrlError
from mrl_jax.core.presets import find_config, preset_names
from mrl_jax.inference.cascade_config import CascadeConfig, read_cascade
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.ctc import run as ctc
from mrl_jax.training.ctc.config import CtcExperiment
from mrl_jax.training.text_tower import run as text_tower
from mrl_jax.training.text_tower.config import TextStageExperiment

CONVERTED = r"(?:(?:mrl-jax convert|python -m converters) \w+ \S+|--output_dir) (\S+)\n"
"""The output of a conversion in the header of a preset."""

CASCADE = "mrl_jax.inference.cascade_command"


def test_what_cannot_be_a_cascade_is_refused(root, nllb, tmp_path, capsys):
    speech, text = root / "towers" / "speech", root / "towers" / "text"
    shutil.copytree(root / "recogniser", tmp_path / "mute")
    path = tmp_path / "mute" / "tower.json"
    path.write_text(unsealed(path, vocabulary=None, weights_digest=""))
    languages = ("source_language=wol_Latn", "target_language=fra_Latn")
    translator = f"translator={nllb[2]}"
    config = write_config(tmp_path / "tiny_config.py", root)
    for changes, message in (
        (["recogniser="], "recogniser and transcripts are both empty"),
        ([f"recogniser={text}"], "is a qwen3 tower, expected a recogniser"),
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
    assert (kept.config.recogniser, kept.speech, kept.config.beam_size) == ("", None, 1)
    assert kept.config.source_language == ""


def test_a_damaged_file_is_named(root, tmp_path):
    folder = written(root, tmp_path / "c")
    path = folder / "cascade.json"
    raw = json.loads(path.read_text())
    for damage, message in (
        ({"dims": [8, 8]}, r"cannot be read as a cascade \(dims is .*each once"),
        ({"beam_size": "1"}, r"cannot be read as a cascade \('1' is no int"),
        ({"beams": 1}, r"cannot be read as a cascade \(unknown fields: beams"),
    ):
        path.write_text(json.dumps({**raw, "config": {**raw["config"], **damage}}))
        with pytest.raises(MrlError, match=r"is not the description that was written.*--update"):
            read_cascade(folder)
        path.write_text(unsealed(path))
        with pytest.raises(MrlError, match=rf"cascade\.json: {message}.*mrl-jax cascade"):
            read_cascade(folder)
    path.write_text(json.dumps(raw))
    assert read_cascade(folder).dims == (32, 16, 8)


def test_other_configs_and_places_are_refused(tmp_path, capsys):
    for words, message in (
        (("--config", "cascad", "--out", tmp_path / "c"), "Did you mean cascade?"),
        (("--config", "ctc", "--out", tmp_path / "c"), "CtcExperiment, expected CascadeConfig"),
        (("--config", "cascade"), "--out"),
    ):
        assert message in refused(capsys, CASCADE, *words)
        assert not (tmp_path / "c").exists()


def test_presets_name_folders_that_are_written():
    """By a command in the header of a preset, or by a training run in its default workdir."""
    made = set()
    for name in preset_names():
        made |= set(re.findall(CONVERTED, find_config(name).read_text()))
    recogniser = load_config(find_config("ctc"), CtcExperiment)
    text_stage = load_config(find_config("text_stage"), TextStageExperiment)
    made.add(f"runs/{text_stage.name}/{text_tower.TOWER}")
    cascade = load_config(find_config("cascade"), CascadeConfig)
    assert cascade.recogniser == f"runs/{recogniser.name}/{ctc.TOWER}"
    model = load_config(find_config("late_fusion"), ExperimentConfig).model
    assert cascade.text_tower == model.text_tower  # Systems are compared over one text tower.
    towers = (model.speech_tower, recogniser.model.speech_tower, text_stage.model.text_tower)
    assert {*towers, cascade.text_tower, cascade.translator} <= made
    # The demo writes its towers where its own preset reads them.
    demo_cascade = load_config(find_config("demo_cascade"), CascadeConfig)
    demo = load_config(find_config("demo"), ExperimentConfig).model
    folders = (demo_cascade.recogniser, demo_cascade.text_tower)
    assert folders == (demo.speech_tower, demo.text_tower)
