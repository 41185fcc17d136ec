"""`eval.py`: every command's options are arguments of the function it calls."""

import argparse
import importlib
import inspect
from pathlib import Path

import pytest

from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError

evaluate = importlib.import_module("eval")


@pytest.mark.parametrize("command", evaluate.COMMANDS)
def test_options_are_arguments_with_the_same_defaults(command):
    parser = argparse.ArgumentParser()
    evaluate.add_options(parser, command)
    options = vars(parser.parse_args(["--model", "m", "--data", "d", "--out", "o"]))
    model = "models" if command == "compare" else "model"
    module = importlib.import_module(evaluate.COMMANDS[command][0])
    parameters = inspect.signature(getattr(module, f"report_{command}")).parameters
    assert list(parameters)[:3] == [model, "data", "out"]
    for name, default in options.items():
        assert name in parameters
        if name not in (model, "data", "out"):
            assert parameters[name].default == default, name
    # A recogniser's transcripts have no dimensions.
    assert "overwrite" in options
    assert ("dims" in options) == (command != "transcribe")


def test_reports_lie_in_the_model_unless_told(tmp_path):
    (tmp_path / "test").mkdir()
    assert evaluate.default_name("retrieval", str(tmp_path / "test")) == "eval-test"
    assert evaluate.default_name("spectrum", "fleurs:wo-fr@/data/x") == "spectrum-fleurs-wo-fr"
    assert Path(evaluate.default_name("intent", "a/../../b")).name == "intent-a-..-..-b"


def test_numbers_are_read_or_refused():
    assert evaluate.numbers("--ks")("1,10") == (1, 10)
    assert evaluate.numbers("--shots", least=0)("0,4") == (0, 4)
    for text, message in (("", "expected numbers as in"), ("1,b", "'1,b'"), ("5,0", "1 or more")):
        with pytest.raises(MrlError, match=message):
            evaluate.numbers("--ks")(text)


def test_a_command_that_is_none_is_told(capsys):
    assert run_command(evaluate.main, ["rank"]) == 2
    error = capsys.readouterr().err
    assert all(command in error for command in evaluate.COMMANDS)
