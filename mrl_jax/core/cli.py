"""How the commands parse, fail and end."""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mrl_jax.core.addresses import with_addresses
from mrl_jax.core.errors import MrlError, describe_os_error
from mrl_jax.core.extras import missing_package
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.signals import ended_by_signals
from mrl_jax.core.text import check_words

INTERRUPTED = 130
_WRONG_CHOICE = re.compile(r"(?s)argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)")


class CommandParser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, with the nearest name that it does take.

    Options are never abbreviated, and a description keeps its lines.
    """

    def __init__(self, **options: Any):
        defaults = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**{**defaults, **options})

    def parse_known_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """As argparse's, but an unknown option is refused by the parser of its subcommand."""
        self._words = list(sys.argv[1:] if args is None else args)
        known, unknown = super().parse_known_args(self._words, *rest, **kwargs)
        self._refuse_unknown(unknown)
        names = {action.dest: (*action.option_strings, action.dest)[0] for action in self._actions}
        values = {name: getattr(known, dest, None) for dest, name in names.items()}
        check_words(values, prog=self.prog)
        return known, unknown

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        options = re.findall(r"(?<![\w-])--[a-z][\w-]*", self.format_usage())
        for word in words:
            option = word.partition("=")[0]
            if word.startswith("--") and word != "--" and option not in options:
                self._refuse(f"no option {option}", did_you_mean(option, options, otherwise=""))

    def error(self, message: str) -> NoReturn:
        if re.search("(are|is) required", message):  # By a mistyped name, perhaps.
            self._refuse_unknown(self._words)
        wrong = _WRONG_CHOICE.fullmatch(message)
        if not wrong:
            self._refuse(message)
        name, value, choices = wrong.groups()
        known = [choice.strip("'") for choice in choices.split(", ")]
        self._refuse(
            f"{name} is {value!r}, expected one of {', '.join(known)}",
            did_you_mean(value, known, otherwise=""),
        )

    def _refuse(self, problem: str, hint: str = "") -> NoReturn:
        hint = f"{hint} `--help` lists what it takes".strip()
        raise MrlError(problem, where=self.prog, hint=hint)


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command line, turning a user's mistake into one line on stderr and status 2.

    SIGTERM and Ctrl-C end it wherever it is, see `core.signals`, so that staged files are removed.

    Returns:
        The exit status: `main`'s own, 2 after an `MrlError`, 130 after Ctrl-C, 143 after SIGTERM.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # For names of files that are not UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
    with ended_by_signals() as interruption:
        try:
            return main(sys.argv[1:] if argv is None else argv)
        except BaseException as error:
            interruption.close()
            if interruption.status is None:
                status = _status_of(error)
            else:  # Whatever it became on its way.
                status = interruption.status
                if status == INTERRUPTED:
                    print("error: interrupted; nothing was left half-written", file=sys.stderr)
            if status is None:
                raise
            return status


def _status_of(error: BaseException) -> int | None:
    """The exit status after an error that has a message of one line; None for any other."""
    match error:
        case MrlError():
            refusal = error
        case ModuleNotFoundError():
            refusal = missing_package(error)
            if refusal is None:
                return None
        case BrokenPipeError():
            return _closed_output()
        case OSError():
            refusal = MrlError(describe_os_error(error), where=error.filename or None)
        case KeyboardInterrupt():
            print("error: interrupted; nothing was left half-written", file=sys.stderr)
            return INTERRUPTED
        case _:
            return None
    print(f"error: {with_addresses(str(refusal))}", file=sys.stderr)
    return 2


def _closed_output() -> int:
    """The reader of our output went away (`| head`): that is no fault."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
