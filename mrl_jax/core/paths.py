"""Where a user's paths enter: `~` is expanded, and what is at an address is fetched.

Every option of a command line, every field of a config and every argument of the API that names
a file or folder goes through `user_path`, or as text through `user_text`; what is written goes
through `output_path`. An address of an object store becomes its place on this machine, see
`core.remote`; any other address is refused.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from mrl_jax.core.addresses import (
    MOST_BYTES,
    SCHEMES,
    address_of,
    place_of,
    scheme_of,
    without_secrets,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.core.remote import fetch
from mrl_jax.core.replacement import finish_replacement

PathText = Annotated[str, "path"]
"""The type of a config's field that names a file or folder; see `expand_paths`."""

_NAMED = re.compile(r"(?P<name>[\w:.-]+@)(?P<folder>.+)", re.DOTALL)


def user_path(path: str | os.PathLike[str], *, optional: bool = False) -> Path:
    """A path of this machine that is read; what is at an address is brought here first.

    Args:
        path: text, in which a leading `~` or `~user` is a home folder, and which may be an
            address; or a `Path`, which is taken as it is.
        optional: nothing need be at an address: it may be made there.

    Raises:
        MrlError: empty; an address of an unsupported kind, or with nothing there; a home folder
            that is not there.
    """
    text = _checked(path, None)
    return Path(text) if scheme_of(text) is None else _fetched(text, optional=optional)


def output_path(path: str | os.PathLike[str]) -> Path:
    """A path that is written to, of an address its place on this machine; nothing is fetched.

    `core.files.staged_folder` uploads what it makes there; others call `core.remote.upload`.

    Args:
        path: as for `user_path`.

    Raises:
        MrlError: as `user_path`, and nothing need be there.
    """
    text = _checked(path, None)
    return Path(text) if scheme_of(text) is None else place_of(text)


def local_path(option: str) -> Callable[[str], Path]:
    """What an option takes whose folder is written bit by bit, and so is one of this machine.

    Returns:
        As `output_path`, but raises an `MrlError` that names the option where an address is given.
    """

    def parse(text: str) -> Path:
        path = output_path(text)
        if scheme_of(text) is not None:
            problem = f"{text} is an address, and takes a folder of this machine"
            raise MrlError(problem, where=option, hint="copy the folder there when it is whole")
        return path

    parse.__name__ = "path"
    return parse


def user_text(text: str | os.PathLike[str], *, where: object = None) -> str:
    """A path that may be a name instead (of a set, of a model on the hub), as `user_path`.

    Args:
        text: a path, a name, or NAME@PATH.
        where: the option or field, for errors; default: the text itself.

    Raises:
        MrlError: as `user_path`.
    """
    name, path = _split_name(text)
    path = _checked(path, where or (text if name else None))
    return name + (path if scheme_of(path) is None else str(_fetched(path)))


def relative_reference(path: Path, folder: Path) -> str:
    """A path as a file in `folder` names it, so that both may move together.

    Relative, where both are paths of this machine or both are at addresses; else whole.
    """
    address = address_of(path)
    if (address is None) != (address_of(folder) is None):
        return address or path.resolve().as_posix()
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def joined_path(folder: Path, reference: str) -> Path:
    """The path that a file in `folder` names: relative to it, absolute, or an address.

    Raises:
        MrlError: an address of an unsupported kind.
    """
    return folder / reference if scheme_of(reference) is None else output_path(reference)


def referenced_path(folder: Path, reference: str) -> Path:
    """`joined_path`, and what is at an address is fetched.

    Raises:
        MrlError: as `user_path`, of an address.
    """
    path = joined_path(folder, reference)
    address = address_of(path)
    return path if address is None else _fetched(address)


def expand_paths(config: Any, group: str) -> None:
    """Check every field of a frozen config that is a `PathText`; for `__post_init__`.

    `~` is expanded. Addresses stay, so that a config is the same on all machines, and are fetched
    where `user_path` is called.

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
            name, path = _split_name(value)
            object.__setattr__(config, field.name, name + _checked(path, where))


def _fetched(address: str, *, optional: bool = False) -> Path:
    finish_replacement(place_of(address))
    return fetch(address, optional=optional)


def _split_name(text: str | os.PathLike[str]) -> tuple[str, str | os.PathLike[str]]:
    """NAME@ and the path after it; "" and the text itself without a name."""
    match = _NAMED.fullmatch(text) if isinstance(text, str) else None
    return (match["name"], match["folder"]) if match else ("", text)


def _checked(path: str | os.PathLike[str], where: object) -> str:
    text = os.fspath(path)
    if not text:
        problem = "the path is empty"
        raise MrlError(problem, where=where, hint="name a file or folder, or . for this one")
    if scheme := scheme_of(text):
        return _checked_address(text, scheme, where)
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


def _checked_address(text: str, scheme: str, where: object) -> str:
    """An address of a supported kind; `Path("s3://b/x")` is s3:/b/x, and is meant as one."""
    if scheme in SCHEMES:
        address = f"{scheme}://{text.partition(':')[2].lstrip('/')}"
        place_of(address, where=where)
        return address
    known, text = " and ".join(f"{one}://" for one in SCHEMES), without_secrets(text)
    raise MrlError(
        f"{f'{text} is' if where else 'is'} an address ({scheme}://), and only {known} and paths "
        "of this machine are read and written",
        where=where or text,
        hint="leave file:// out"
        if scheme == "file"
        else "copy it here first, or mount it as a folder",
    )
