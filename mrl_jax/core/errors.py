"""What a user did wrong, where, and how to correct it: one line, and exit status 2."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

NO_FILE = "no such file"

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_WRITES = (*_NO_ROOM, errno.EROFS, errno.EIO, errno.EACCES)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
LONGEST_PROBLEM, LONGEST_HINT = 800, 380
"""Letters of the parts of an error: longer ones quote what nobody reads on a terminal."""


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
        line = shortened(readable(line), LONGEST_PROBLEM)
        if hint:
            hint = shortened(readable(hint), LONGEST_HINT)
            line = f"{line}. {hint[0].upper()}{hint[1:]}"
        super().__init__(" ".join(line.split()))


class ArgumentError(MrlError, ValueError):
    """An argument of a wrong type, shape or value; a `ValueError` as well."""


def readable(text: object) -> str:
    """A text or path as it can be printed and written everywhere.

    A byte of a path that is not UTF-8 becomes `\\xe9`, another half of a surrogate pair `\\ud800`.
    """
    text = str(text)
    if text.isascii():
        return text.replace("\0", "\\x00")
    with contextlib.suppress(UnicodeEncodeError):
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def shortened(text: str, most: int) -> str:
    """A text of at most `most` letters: of a longer one its start and its end."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} … {text[-(most // 3 - 3) :]}"


def describe_os_error(error: OSError) -> str:
    """The operating system's message for a failed read or write, without numbers or paths."""
    return os.strerror(error.errno) if error.errno else str(error)


def as_os_error(error: Exception) -> OSError:
    """A failed write as an `OSError`, where a library raised a class of its own.

    TensorStore and safetensors leave the number of the system's error in their text, ArrayRecord,
    libsndfile and pyarrow its words. Without either the result has no `errno`.
    """
    if isinstance(error, OSError) and error.errno:
        return error
    text = str(error)
    if match := re.search(r"os_error_code='(\d+)'|\(os error (\d+)\)", text):
        number = int(match[1] or match[2])
        return OSError(number, os.strerror(number))
    for number in _OF_WRITES:
        if os.strerror(number).lower() in text.lower():
            return OSError(number, os.strerror(number))
    return OSError(first_line(error))


@contextlib.contextmanager
def failed_writes_as_os_errors() -> Iterator[None]:
    """Around a library that writes: its own error of a full disk becomes an `OSError`.

    Raises:
        OSError: with the number of the system's error, where the library's error names it.
    """
    try:
        yield
    except (MrlError, OSError):
        raise
    except Exception as error:  # ArrayRecord raises RuntimeError, libsndfile one of its own.
        cause = as_os_error(error)
        if not cause.errno:
            raise
        raise cause from error


def write_hint(error: OSError) -> str:
    """What to do about a failed write."""
    if error.errno in _NO_ROOM:
        return "free some room there, or write to another disk"
    return "check that the place exists, may be written to, and has room"


def first_line(error: BaseException) -> str:
    """The start of what a library's error says, short enough to quote."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def file_problem(path: Path) -> str | None:
    """Why a path is no file that can be read to its end; None where it is one.

    Nothing is opened: a named pipe waits for a writer, and a device has no end.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except ValueError as error:  # From Python: a zero byte, or half a surrogate pair.
        return f"is no path ({first_line(error)})"
    except FileNotFoundError:
        dangling = path.is_symlink()
        return f"is a link to {os.readlink(path)}, which is not there" if dangling else NO_FILE
    except NotADirectoryError:
        return NO_FILE
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a loop of symbolic links"
        if error.errno == errno.ENAMETOOLONG:
            return f"is too long for a path: {len(os.fsencode(path))} bytes"
        return f"cannot be read: {describe_os_error(error)}"
    if kind != stat.S_IFREG:
        return f"is {_KINDS.get(kind, 'neither')}, expected a file"
    return None


def existing_folder(path: Path, what: str, *, hint: str) -> Path:
    """`path` itself where it is a folder; an `MrlError` with the hint otherwise.

    Args:
        what: the folder is of, "a retrieval set" for one.
    """
    if not path.is_dir():
        kind = "is a file, expected the folder of" if path.exists() else "no such folder, for"
        raise MrlError(f"{kind} {what}", where=path, hint=hint)
    return path


def existing_file(path: Path, *, hint: str) -> Path:
    """`path` itself where it is a file; an `MrlError` with the hint otherwise."""
    if problem := file_problem(path):
        raise MrlError(problem, where=path, hint=hint)
    return path
