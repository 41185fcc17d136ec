"""How the commands parse, fail and end."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mrl_jax.core.errors import MrlError, describe_os_error


class CommandParser(argparse.ArgumentParser):
    """Tells a wrong command line in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise MrlError(message, where=self.prog, hint="`--help` lists what it takes")


def unwind_on_sigterm() -> None:
    """From now on SIGTERM unwinds, so that staged files are removed, and the status is 143."""

    def terminate(signum: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, terminate)


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command line, turning a user's mistake into one line on stderr and status 2.

    Returns:
        The exit status: `main`'s own, 2 after an `MrlError`, 130 after an interrupt.
    """
    try:
        return main(sys.argv[1:] if argv is None else argv)
    except MrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return _closed_output()
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{describe_os_error(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; nothing was left half-written", file=sys.stderr)
        return 130


def _closed_output() -> int:
    """The reader of our output went away (`| head`): that is no fault."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
