"""Digests of files, which the JSON description of a folder names and which loading verifies.

Each is a SHA-256: of what the standard library has, the fastest where the CPU has instructions for
it, and one that `sha256sum` computes too. A description vouches for itself as well, by a digest of
its own fields (`seal`). This finds accidents; who can write the folder can write its digests.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from mrl_jax.core.errors import MrlError, describe_os_error
from mrl_jax.core.hub import snapshot_around

SEAL = "sha256"
"""The field of a description that holds the digest of all others."""
_BLOCK = 1 << 20


class UnverifiedWarning(UserWarning):
    """A folder was written before there were digests, so that nothing can be verified."""


def update_hint(folder: Path, otherwise: str = "") -> str:
    """What to do about a digest that differs, after what to do `otherwise`.

    The hub's cached copy of a model is never the user's own work.
    """
    if (snapshot := snapshot_around(folder)) is not None:
        return (
            f"remove {snapshot.parents[1]}, and load the model again; if this stays, its "
            "repository is damaged"
        )
    meant = f"if the change is meant, run `mrl-jax checksum --update {folder}`"
    return f"{otherwise}; {meant}" if otherwise else meant


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return stream_digest(file)


def stream_digest(file: IO[bytes]) -> str:
    """SHA-256 of what is left of an open file, read in blocks."""
    total = hashlib.sha256()
    while block := file.read(_BLOCK):
        total.update(block)
    return total.hexdigest()


def files_below(folder: Path) -> Iterator[str]:
    """All files of a folder and the folders in it, by relative name; hidden ones are left out."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from (f"{path.name}/{name}" for name in files_below(path))
        else:
            yield path.name


def folder_digests(
    folder: Path, choose: Callable[[str], bool] = lambda name: True
) -> dict[str, str]:
    """Digest of each file below a folder, by relative name, of those that `choose` takes."""
    names = [name for name in files_below(folder) if choose(name)]
    return dict(zip(names, _digests(folder, names), strict=True))


def verify_files(
    folder: Path,
    digests: Mapping[str, str],
    choose: Callable[[str], bool] = lambda name: True,
    *,
    named_by: str,
    hint: str,
) -> None:
    """Compare the files that `choose` takes with their digests.

    Args:
        folder: that the names are relative to.
        digests: SHA-256 by name; where there is none at all a warning says so once.
        choose: which of them are read.
        named_by: the description that they are from, for the message.
        hint: how to replace a damaged folder.

    Raises:
        MrlError: a file is missing, cannot be read, or is another.
    """
    if not digests:
        warnings.warn(
            f"{folder} was written without digests, so its files are not verified; "
            f"`mrl-jax checksum --update {folder}` adds them",
            UnverifiedWarning,
            stacklevel=2,
        )
    names = [name for name in digests if choose(name)]
    for name in names:
        if not (folder / name).is_file():
            problem = f"is missing, and {named_by} names it"
            raise MrlError(problem, where=folder / name, hint=update_hint(folder, hint))
    for name, digest in zip(names, _digests(folder, names), strict=True):
        if digest != digests[name]:
            raise MrlError(
                f"is not the file that was written: its SHA-256 is {digest[:12]}, and {named_by} "
                f"says {digests[name][:12]}",
                where=folder / name,
                hint=update_hint(folder, hint),
            )


def _digests(folder: Path, names: list[str]) -> list[str]:
    """Digest of each file, several at once."""

    def one(name: str) -> str:
        try:
            return file_digest(folder / name)
        except OSError as error:
            problem = f"cannot be read: {describe_os_error(error)}"
            raise MrlError(problem, where=folder / name) from error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, names))


def seal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a description, and the digest of them."""
    fields = {name: value for name, value in fields.items() if name != SEAL}
    return {**fields, SEAL: fields_digest(fields)}


def fields_digest(fields: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their names."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
