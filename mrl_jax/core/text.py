"""Text that can be written: what UTF-8 or a path has no place for is refused where it enters.

Half of a surrogate pair is a valid escape in JSON, and what Python makes of a byte of a command
line or a file name that is not UTF-8. A NUL ends a string in the libraries below.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import ArgumentError, MrlError, readable

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_FLAWS = ("holds half a surrogate pair, which UTF-8 has not", "holds a NUL character")


def flaw_of(text: str) -> str | None:
    """What of a text cannot be written; None where there is nothing."""
    found = _UNWRITABLE.search(text)
    return None if found is None else _FLAWS[found[0] == "\0"]


def check_text(text: str, name: str, *, where: object = None, hint: str = "write UTF-8") -> None:
    """Raises an `MrlError` where a text cannot be written; `name` is what it is: "`text`"."""
    if (flaw := flaw_of(text)) is not None:
        raise MrlError(f"{name} {flaw}", where=where, hint=hint)


def check_texts(texts: Iterable[Any], name: str = "text") -> None:
    """Raises an `MrlError` where one of some texts is none, or cannot be written.

    Args:
        name: of one, which its number follows in the error.
    """
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            problem = f"is {text!r:.60}, expected text"
            raise ArgumentError(problem, where=f"{name} {number}", hint="pass strings")
        check_text(text, "the text", where=f"{name} {number}")


def check_words(values: Mapping[str, Any], *, prog: str) -> None:
    """Refuse words of a command line that are neither text nor the path of something there.

    Args:
        values: by option, as argparse gives them: a text, a path, or a list of them.
        prog: the command.

    Raises:
        MrlError: a word that is not UTF-8. As a path it is taken: older systems name files so.
    """
    for name, value in values.items():
        words = value if isinstance(value, list | tuple) else [value]
        for word in words:
            if not isinstance(word, str) or flaw_of(word) is None:
                continue
            if any(is_path(part) for part in (word, word.rpartition("=")[2])):
                continue
            raise MrlError(
                f"{name} is '{readable(word)}', neither UTF-8 nor the path of something there",
                where=prog,
                hint="write it in UTF-8, or correct the path",
            )


def check_path_text(path: Path | str, *, hint: str) -> None:
    """Raises an `MrlError` for a path whose bytes are not UTF-8, where a library takes no other."""
    if (flaw := flaw_of(os.fspath(path))) is not None:
        flaw = "its path is not UTF-8" if "surrogate" in flaw else f"its path {flaw}"
        raise MrlError(flaw, where=path, hint=hint)


def is_path(text: str) -> bool:
    """Whether something is at this path."""
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return False
