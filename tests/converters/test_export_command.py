"""`mrl-jax export`: its forms from the command line, and what it refuses in one line."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from tiny_exports import make_case

from converters import export_command
from converters.portable_parts import SETTINGS, read_portable
from mrl_jax.checkpoints.models import describe_model, load_model, read_model_info
from mrl_jax.core import commands
from mrl_jax.core.cli import run_command
from mrl_jax.nn import param_tree
from mrl_jax.nn.int8 import Int8Weight

STABLEHLO = ("--stablehlo", "--seconds", "1", "--tokens", "16")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_case("dual encoder", tmp_path_factory.mktemp("model"))


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a refused command."""
    assert run_command(export_command.main, [str(word) for word in words]) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_an_export_says_what_it_made(model, tmp_path, capsys):
    out = tmp_path / "out"
    assert commands.main(["export", str(model), str(out), "--dim", "16", *STABLEHLO]) == 0
    printed = capsys.readouterr().out
    assert "dual_encoder, vectors of 16 coordinates, speech-16000.bin, text-16.bin" in printed
    assert "the others (32, 8) are exported by --dim" in printed
    # A prefix of a vector that is its dim's own is no embedding.
    assert json.loads((out / SETTINGS).read_text())["trained_dims"] == [16]
    line = refusal(capsys, model, out, *STABLEHLO)
    assert "the output exists already" in line
    assert "--overwrite" in line
    assert commands.main(["export", str(model), str(out), *STABLEHLO, "--overwrite"]) == 0
    assert "vectors of 32 coordinates" in capsys.readouterr().out


def test_a_model_of_eight_bit_towers_is_exported_whole(model):
    info = dataclasses.replace(read_model_info(model), frozen_dtype="int8")
    held = load_model(model, info)
    assert any(isinstance(x, Int8Weight) for x in param_tree.split(held).frozen.values())
    before = read_portable(model, None).model
    try:
        describe_model(model, info)
        weights = param_tree.split(read_portable(model, None).model).frozen
    finally:
        describe_model(model, dataclasses.replace(info, frozen_dtype=""))
    for path, array in param_tree.split(before).frozen.items():
        np.testing.assert_array_equal(weights[path], array)


def test_the_page_shows_commands_that_parse():
    page = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    page += (ROOT / "docs" / "commands" / "export.md").read_text(encoding="utf-8")
    shown = re.findall(r"^mrl-jax export (.*--.*)$", page, re.MULTILINE)
    parser = export_command.build_parser("mrl-jax export")
    forms = [parser.parse_args(words.split()).form for words in shown]
    assert sorted(forms) == sorted(2 * list(export_command.FORMS))


def test_the_form_may_stand_first(model, tmp_path):
    pytest.importorskip("sentence_transformers", minversion="6.0")
    out = tmp_path / "out"
    assert commands.main(["export", "--sentence-transformers", str(model), str(out)]) == 0
    assert (out / "modules.json").is_file()


def test_what_is_no_model_is_refused(model, tmp_path, capsys):
    tower = model.parent / "towers" / "text"
    assert "is a tower, expected a trained model" in refusal(
        capsys, tower, tmp_path / "o", *STABLEHLO
    )
    index = tmp_path / "index"
    index.mkdir()
    (index / "index.json").write_text("{}")
    assert "is an index, expected a trained model" in refusal(
        capsys, index, tmp_path / "o", *STABLEHLO
    )
    assert "model.json: no such file" in refusal(capsys, tmp_path, tmp_path / "o", *STABLEHLO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stablehlo", "--dim", "33"), "--dim is 33, expected 1 to 32"),
        (("--stablehlo", "--dim", "0"), "--dim is 0, expected 1 to 32"),
        (("--stablehlo", "--dim", "20"), "no query vector for the dimension 20"),
        (("--onnx", "--seconds", "2"), "--seconds is of --stablehlo"),
        (("--onnx", "--stablehlo"), "not allowed with argument"),
        ((), "one of the arguments"),
        (("--torch",), "no option --torch"),
    ],
)
def test_options_are_refused(words, message, model, tmp_path, capsys):
    if "--onnx" in words and "--seconds" not in words:
        pytest.importorskip("onnx")
    assert message in refusal(capsys, model, tmp_path / "out", *words)
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_never_replaced(model, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    line = refusal(capsys, model, out, *STABLEHLO, "--overwrite")
    assert f"there is no {SETTINGS}" in line
    assert (out / "mine.txt").read_text() == "mine"
    assert "would replace its own source" in refusal(
        capsys, model, model, *STABLEHLO, "--overwrite"
    )
    assert (model / "model.json").is_file()


def test_a_model_that_reads_padding_as_speech_has_no_programs_of_fixed_length(tmp_path, capsys):
    from tiny_run import make_model

    model = make_model(tmp_path, padding="reference")
    assert "reads padding as speech" in refusal(capsys, model, tmp_path / "out", *STABLEHLO)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_names_the_extra(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxscript" else object()
    )
    line = refusal(capsys, model, tmp_path / "out", "--onnx")
    assert "--onnx takes onnxscript, which is not installed" in line
    assert "mrl_jax[export]" in line
