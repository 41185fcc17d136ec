"""A wrong command line is refused in one line, with the nearest name that is known."""

import pytest

from mrl_jax.core.cli import CommandParser
from mrl_jax.core.errors import MrlError


def parser() -> CommandParser:
    program = CommandParser(prog="tool")
    program.add_argument("--verbose", action="store_true")
    commands = program.add_subparsers(dest="command", required=True, metavar="COMMAND")
    convert = commands.add_parser("convert")
    convert.add_argument("source")
    convert.add_argument("--dtype", choices=("float32", "bfloat16"))
    convert.add_argument("--overwrite", action="store_true")
    return program


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "convrt a",
            "tool: COMMAND is 'convrt', expected one of convert. Did you mean convert? "
            "`--help` lists what it takes",
        ),
        (
            "convert a --dtype float23",
            "tool convert: --dtype is 'float23', expected one of float32, bfloat16. "
            "Did you mean float32? `--help` lists what it takes",
        ),
        (
            "convert a --overwite",
            "tool convert: no option --overwite. Did you mean --overwrite? "
            "`--help` lists what it takes",
        ),
        (
            "convert a --dtyp=float32",
            "tool convert: no option --dtyp. Did you mean --dtype? `--help` lists what it takes",
        ),
        ("convert a --xyz", "tool convert: no option --xyz. `--help` lists what it takes"),
        (
            "convert --overwite",
            "tool convert: no option --overwite. Did you mean --overwrite? "
            "`--help` lists what it takes",
        ),
        (
            "--verbos",
            "tool: no option --verbos. Did you mean --verbose? `--help` lists what it takes",
        ),
        (
            "convert --overwrite",
            "tool convert: the following arguments are required: source. "
            "`--help` lists what it takes",
        ),
        ("convert a b", "tool: unrecognized arguments: b. `--help` lists what it takes"),
        ("", "tool: the following arguments are required: COMMAND. `--help` lists what it takes"),
    ],
)
def test_a_wrong_command_line_names_the_nearest(line, message):
    with pytest.raises(MrlError) as error:
        parser().parse_args(line.split())
    assert str(error.value) == message


def test_options_may_stand_between_positional_arguments():
    program = CommandParser(prog="tool")
    program.add_argument("--steps", type=int)
    program.add_argument("fields", nargs="*")
    args = program.parse_intermixed_args(["a=1", "--steps", "3", "b=2"])
    assert (args.steps, args.fields) == (3, ["a=1", "b=2"])
    program.add_argument("--name", required=True)
    for words in (["--step", "3", "--name", "x"], ["--step", "3"]):
        with pytest.raises(MrlError, match=r"no option --step\. Did you mean --steps\?"):
            program.parse_intermixed_args(["a=1", *words, "b=2"])


def test_a_description_keeps_its_lines():
    program = CommandParser(prog="tool", description="What it does:\n\n    tool --option")
    assert "What it does:\n\n    tool --option" in program.format_help()
