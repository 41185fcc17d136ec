"""The `mrl-jax` program: it finds its commands by name, and imports only the one that is called."""

import subprocess
import sys

import pytest

import mrl_jax
from mrl_jax.core import commands
from mrl_jax.core.cli import run_command


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a command line that must be refused."""
    assert run_command(commands.main, argv) == 2
    out, line = capsys.readouterr()
    assert out == ""
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


def test_the_version_and_the_help_need_no_jax():
    script = """
import sys
from mrl_jax.core.commands import main
for argv in (["--version"], ["--help"]):
    try:
        main(argv)
    except SystemExit as end:
        assert end.code == 0
assert not {"jax", "numpy", "flax"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"mrl_jax {mrl_jax.__version__}\n")
    assert all(name in done.stdout for name in commands.COMMANDS)


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in commands.COMMANDS)])
def test_every_command_is_a_function_of_its_arguments(argv, capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(argv)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "usage: " in text
    with pytest.raises(SystemExit):
        commands.main(["help", *argv[:-1]])
    assert capsys.readouterr().out == text


def test_the_arguments_go_to_the_command(capsys, tmp_path):
    line = refusal(capsys, "convert", "export", str(tmp_path / "none"), str(tmp_path / "out"))
    assert str(tmp_path / "none") in line


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    line = refusal(capsys, "trian", "--config", "demo")
    assert "'trian'" in line
    assert "Did you mean train?" in line
    assert all(name in line for name in commands.COMMANDS)
    assert "Did you mean" not in refusal(capsys, "xyz")
    assert "COMMAND" in refusal(capsys)


def test_the_module_is_the_program_too():
    argv = [sys.executable, "-m", "mrl_jax.core.commands", "buidl"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Did you mean build?" in done.stderr


def test_the_help_imports_nothing_of_object_stores():
    names = ("fsspec", "s3fs", "gcsfs", "aiohttp", "tqdm", "jax", "numpy")
    code = f"import sys, mrl_jax.core.commands; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
