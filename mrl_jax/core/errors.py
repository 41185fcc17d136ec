"""What a user did wrong, where, and how to correct it: one line, and exit status 2."""

import os
import re
from pathlib import Path


class MrlError(Exception):
    """A problem that the user can correct, described in one line.

    Args:
        problem: what is there and what was expected.
        where: the file, folder, key or option at fault.
        hint: what to do about it.
    """

    def __init__(self, problem: str, *, where: object = None, hint: str | None = None):
        self.problem = problem
        self.where = where
        self.hint = hint
        line = problem if where is None else f"{where}: {problem}"
        if hint:
            line = f"{line}. {hint[0].upper()}{hint[1:]}"
        super().__init__(" ".join(line.split()))


def describe_os_error(error: OSError) -> str:
    """The operating system's message for a failed read or write, without numbers or paths."""
    return os.strerror(error.errno) if error.errno else str(error)


def as_os_error(error: Exception) -> OSError:
    """A failed write as an `OSError`, where a library raised a class of its own.

    TensorStore and safetensors leave the number of the system's error in their text.
    """
    if match := re.search(r"os_error_code='(\d+)'|\(os error (\d+)\)", str(error)):
        number = int(match[1] or match[2])
        return OSError(number, os.strerror(number))
    return OSError(first_line(error))


def first_line(error: BaseException) -> str:
    """The start of what a library's error says, short enough to quote."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def existing_file(path: Path, *, hint: str) -> Path:
    """`path` itself where it is a file; an `MrlError` with the hint otherwise."""
    if not path.is_file():
        kind = "is a folder, expected a file" if path.is_dir() else "no such file"
        raise MrlError(kind, where=path, hint=hint)
    return path
