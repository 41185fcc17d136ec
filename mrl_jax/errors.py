"""What a user did wrong, where, and how to mend it: one line, and exit status 2."""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn


class MrlError(Exception):
    """A problem that the user can mend, told in one line.

    Args:
        problem: what was found and what was expected.
        where: the file, folder, key or option at fault.
        mend: what to do about it.
    """

    def __init__(self, problem: str, *, where: object = None, mend: str | None = None):
        self.problem = problem
        self.where = where
        self.mend = mend
        line = problem if where is None else f"{where}: {problem}"
        if mend:
            line = f"{line}. {mend[0].upper()}{mend[1:]}"
        super().__init__(" ".join(line.split()))


def describe_os_error(error: OSError) -> str:
    """The operating system's words for a failed read or write, without numbers or paths."""
    return os.strerror(error.errno) if error.errno else str(error)


def as_os_error(error: Exception) -> OSError:
    """A failed write as the operating system tells it, where a library raised its own kind.

    TensorStore and safetensors leave the number of the system's error in their text.
    """
    found = re.search(r"os_error_code='(\d+)'|\(os error (\d+)\)", str(error))
    if not found:
        return OSError(first_line(error))
    number = int(found[1] or found[2])
    return OSError(number, os.strerror(number))


def first_line(error: Exception) -> str:
    """The start of what a library's error says, short enough to quote."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def existing_file(path: Path, *, mend: str) -> Path:
    """`path` itself where it is a file; an `MrlError` that says how to mend it otherwise."""
    if not path.is_file():
        kind = "is a folder, expected a file" if path.is_dir() else "no such file"
        raise MrlError(kind, where=path, mend=mend)
    return path


class CommandParser(argparse.ArgumentParser):
    """Tells a wrong command line in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise MrlError(message, where=self.prog, mend="`--help` lists what it takes")


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
