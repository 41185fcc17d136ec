"""`mrl-jax eval`: every report is registered, and its options are the fields of one dataclass."""

import argparse
import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.command import default_folder, main
from mrl_jax.evaluation.report.options import add_options, integers
from mrl_jax.evaluation.report.registry import REPORTS, options_class, report_function


@pytest.mark.parametrize("report", REPORTS)
def test_options_are_the_fields_of_what_the_report_takes(report):
    kind = options_class(report)
    parser = argparse.ArgumentParser()
    add_options(parser, kind)
    parsed = vars(parser.parse_args(["--model", "m", "--data", "d", "--out", "o"]))
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    assert set(parsed) == set(fields)
    for name, value in parsed.items():
        if fields[name] is not dataclasses.MISSING:
            assert value == fields[name], name
    assert parsed["models" if report == "compare" else "model"]
    assert "overwrite" in parsed
    # A recogniser's transcripts have no dimensions.
    assert ("dims" in parsed) == (report != "transcribe")
    first = next(iter(inspect.signature(report_function(report)).parameters.values()))
    assert first.annotation is kind
    assert kind(**parsed)


@pytest.mark.parametrize("report", REPORTS)
def test_every_report_is_a_folder_of_the_same_shape(report):
    for name in ("options", "measure", "figures", "report"):
        module = importlib.import_module(f"mrl_jax.evaluation.{report}.{name}")
        assert module.__doc__
        public = [value for key, value in vars(module).items() if not key.startswith("_")]
        assert any(getattr(value, "__module__", "") == module.__name__ for value in public), name


def test_reports_lie_in_the_model_by_default(tmp_path):
    (tmp_path / "test").mkdir()
    assert default_folder("retrieval", str(tmp_path / "test")) == "eval-test"
    assert default_folder("spectrum", "fleurs:wo-fr@/data/x") == "spectrum-fleurs-wo-fr"
    assert Path(default_folder("intent", "a/../../b")).name == "intent-a-..-..-b"


def test_numbers_are_read_or_refused():
    assert integers("--ks")("1,10") == (1, 10)
    assert integers("--shots", least=0)("0,4") == (0, 4)
    for text, message in (("", "expected numbers as in"), ("1,b", "'1,b'"), ("5,0", "1 or more")):
        with pytest.raises(MrlError, match=message):
            integers("--ks")(text)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("xyz", "`--help` lists"), ("retreival", "mean retrieval?"), ("tradoff", "mean tradeoff?")],
)
def test_an_unknown_report_is_refused_with_the_nearest_name(capsys, name, hint):
    assert run_command(main, [name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"REPORT is {name!r}, expected one of" in line
    assert all(report in line for report in REPORTS)
    assert hint in line


def test_help_names_the_program(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: mrl-jax eval ")
    assert all(report in text for report in REPORTS)
    with pytest.raises(SystemExit, match="0"):
        main(["tradeoff", "--help"], prog="a b")
    text = capsys.readouterr().out
    assert text.startswith("usage: a b tradeoff ")
    assert "--budget" in text


@pytest.mark.parametrize("words", [["--help"], ["retrieval", "--help"], ["tradeoff", "--data"]])
def test_help_and_mistakes_import_no_jax(words):
    code = (
        "import sys\n"
        "from mrl_jax.core.cli import run_command\n"
        "from mrl_jax.evaluation.command import main\n"
        "try:\n"
        f"    run_command(main, {words!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "imported = {'jax', 'numpy', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "assert not imported, imported\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
