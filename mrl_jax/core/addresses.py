"""Addresses of object stores (`s3://bucket/run`), and their places on this machine.

Everything else reads and writes files of this machine: memory-mapped records, atomic renames. So
each address has a place below one cache folder, `SCHEME/BUCKET/KEY`, and relative paths between
two places are those between the two addresses. `core.remote` keeps the two sides equal.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from mrl_jax.core.errors import MrlError

SCHEMES = {"s3": "s3fs", "gs": "gcsfs"}
"""What can be read and written, and the package that does it."""
EXTRA = "remote"
"""The extra of `mrl_jax` that installs them."""
CACHE_VARIABLE = "MRL_JAX_CACHE"
MOST_BYTES = 255
"""Of a file's name, on the systems in use."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_ADDRESS = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[^/]+)(?:/(?P<key>.*))?", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")


def scheme_of(text: str) -> str | None:
    """The scheme of a text that is an address of any kind, in small letters; None of a path."""
    match = _URL.match(text)
    return match[1].lower() if match else None


def cache_root() -> Path:
    """The folder below which all addresses have their places."""
    named = os.environ.get(CACHE_VARIABLE)
    try:
        home = Path(named) if named else Path(_user_cache()) / "mrl_jax"
    except RuntimeError as error:
        hint = f"set {CACHE_VARIABLE} to a folder on a large disk"
        raise MrlError("there is no home folder to keep a cache in", hint=hint) from error
    return home.expanduser().resolve() / "remote"


def _user_cache() -> str | Path:
    return os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"


def place_of(address: str, *, where: object = None) -> Path:
    """Where the files of an address are on this machine; nothing is read or made.

    Args:
        address: of a supported scheme, with a bucket.
        where: the option or field, for errors; default: the address.

    Raises:
        MrlError: no bucket, or a key that cannot be the path of a file.
    """
    match = _ADDRESS.fullmatch(address)
    hint = "write it as SCHEME://BUCKET/FOLDER"
    if match is None or not _BUCKET.fullmatch(match["bucket"]):
        named = without_secrets(address)
        raise MrlError(f"{named} names no bucket", where=where or named, hint=hint)
    parts = key_parts((match["key"] or "").rstrip("/"))
    if parts is None:
        problem = f"{address} has a part that no file can be called by (empty, . or .., too long)"
        raise MrlError(problem, where=where or address, hint=hint)
    return cache_root().joinpath(match["scheme"], match["bucket"], *parts)


def without_secrets(text: str) -> str:
    """A message without what stands before the @ of a URL, which may be a key or a password."""
    return re.sub(r"(://)[^/@\s]+@", r"\1...@", text)


def key_parts(key: str) -> tuple[str, ...] | None:
    """The parts of an object's key as names of files; None where one cannot be such a name."""
    parts = tuple(key.split("/")) if key else ()
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        return None
    sizes = (len(part.encode("utf-8", "surrogatepass")) for part in parts)
    return None if any(size > MOST_BYTES for size in sizes) else parts


def address_of(path: Path) -> str | None:
    """The address whose place a path is; None of any other path."""
    return addresses_of([path]).get(path)


def addresses_of(paths: Iterable[Path]) -> dict[Path, str]:
    """The addresses of those of the paths that are places, by path."""
    try:
        root = cache_root()
    except MrlError:  # No home, and so no places.
        return {}
    addresses = {}
    for path in paths:
        # Without following links: the root is resolved, and a place is no link.
        whole = os.path.normpath(path.absolute())
        if whole.startswith(f"{root}{os.sep}"):
            scheme, *rest = whole[len(str(root)) + 1 :].split(os.sep)
            if scheme in SCHEMES and rest:
                addresses[path] = f"{scheme}://{'/'.join(rest)}"
    return addresses


def shown(path: object) -> str:
    """A path as a user knows it: the address, where it is the place of one."""
    address = address_of(path) if isinstance(path, Path) else None
    return str(path) if address is None else address


def with_addresses(text: str) -> str:
    """A message in which places are written as their addresses."""
    try:
        root = f"{cache_root()}{os.sep}"
    except MrlError:
        return text
    for scheme in SCHEMES:
        text = text.replace(f"{root}{scheme}{os.sep}", f"{scheme}://")
    return text
