"""Where a user's paths enter: `~` is expanded, and what is no path of this machine is refused.

Every option of a command line, every field of a config and every argument of the API that names
a file or folder goes through `user_path`, or as text through `user_text`.
"""

import dataclasses
import os
import re
import typing
from pathlib import Path
from typing import Annotated, Any

from mrl_jax.core.errors import MrlError

PathText = Annotated[str, "path"]
"""The type of a config's field that names a file or folder; see `expand_paths`."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_NAMED = re.compile(r"(?P<name>[\w:.-]+@)(?P<folder>.+)", re.DOTALL)

MOST_BYTES = 255
"""Of a file's name, on the systems in use."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path of this machine, as a user wrote it.

    Args:
        path: text, in which a leading `~` or `~user` is a home folder; or a `Path`, which is
            taken as it is.

    Raises:
        MrlError: empty; an address such as gs://bucket/data; a home folder that is not there.
    """
    return Path(_local(path, None))


def user_text(text: str | os.PathLike[str], *, where: object = None) -> str:
    """A path that may be a name instead (of a set, of a model on the hub), with `~` expanded.

    Args:
        text: a path, a name, or NAME@PATH.
        where: the option or field, for errors; default: the text itself.

    Raises:
        MrlError: as `user_path`.
    """
    if isinstance(text, str) and (match := _NAMED.fullmatch(text)):
        return match["name"] + _local(match["folder"], where or text)
    return _local(text, where)


def expand_paths(config: Any, group: str) -> None:
    """`user_text` of every field of a frozen config that is a `PathText`; for `__post_init__`.

    Args:
        config: a dataclass; an empty field is none, and stays empty.
        group: the name of the config in that of its run ("model"), for errors.

    Raises:
        MrlError: as `user_path`, naming the field.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if hints[field.name] == PathText and value:
            where = f"{group}.{field.name}".lstrip(".")
            object.__setattr__(config, field.name, user_text(value, where=where))


def _local(path: str | os.PathLike[str], where: object) -> str:
    text = os.fspath(path)
    if not text:
        problem = "the path is empty"
        raise MrlError(problem, where=where, hint="name a file or folder, or . for this one")
    _refuse_url(text, where)
    _refuse_unopenable(text, where)
    if not isinstance(path, str) or not text.startswith("~"):
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        problem = f"there is no home folder {text.partition('/')[0]}"
        raise MrlError(problem, where=where or text, hint=f"write ./{text} for one of that name")
    return expanded


def _refuse_unopenable(text: str, where: object) -> None:
    """What no system call takes as a path, which Python tells by errors of several kinds."""
    try:
        parts = os.fsencode(text).split(b"/")
    except UnicodeEncodeError:
        problem = "the path holds half a surrogate pair, which no file's name has"
        raise MrlError(problem, where=where or text, hint="check the path") from None
    problem = "holds a NUL character" if "\0" in text else ""
    if max(map(len, parts)) > MOST_BYTES:
        problem = f"has a part of more than {MOST_BYTES} bytes"
    if problem:
        raise MrlError(f"the path {problem}", where=where or text, hint="check the path")


def _refuse_url(text: str, where: object) -> None:
    """`Path("gs://b/x")` is gs:/b/x, which would be made below the current folder."""
    if match := _URL.match(text):
        scheme = match[1].lower()
        raise MrlError(
            f"{f'{text} is' if where else 'is'} an address ({scheme}://), and only paths of this "
            "machine are read and written",
            where=where or text,
            hint="leave file:// out"
            if scheme == "file"
            else "copy it here first, or mount it as a folder",
        )
