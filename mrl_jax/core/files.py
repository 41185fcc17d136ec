"""Folders and files that appear whole or not at all."""

import contextlib
import glob
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mrl_jax.core.addresses import address_of, shown
from mrl_jax.core.errors import MrlError, describe_os_error, file_problem, write_hint
from mrl_jax.core.paths import output_path
from mrl_jax.core.processes import is_alive, start_of
from mrl_jax.core.remote import objects_at
from mrl_jax.core.replacement import replace
from mrl_jax.core.text import check_path_text

OLD_SECONDS = 24 * 3600
"""Without a change for so long, what another host writes is taken to be abandoned."""

UTF8_FOLDER = "choose a folder whose path is UTF-8: checkpoints and records take no other"


@contextlib.contextmanager
def staged_folder(
    final: Path,
    *,
    marker: str,
    overwrite: bool = False,
    needs_bytes: int = 0,
    any_name: bool = False,
) -> Iterator[Path]:
    """Give a hidden folder to write into; rename it to `final` if the block succeeds.

    The place of an address is uploaded then; whether something is there is asked of the store.
    After an error the hidden folder is removed. What a killed process left behind is
    removed by the next one that writes to the same `final`: at once on the same host, and where
    nothing in it has changed for a day on another.

    Args:
        final: the folder to make.
        marker: a file of every folder of this kind; one without it is never replaced.
        overwrite: replace a folder that is there already, at the moment of renaming.
        needs_bytes: what will be written, to fail before the work rather than after it.
        any_name: its path need not be UTF-8, as only this library's own files go there.

    Raises:
        MrlError: `final` exists, or is no folder of this kind; the disk has no room or
            refuses a write.
    """
    final = output_path(final)
    named, final = shown(final), final.resolve()
    if not any_name:
        check_path_text(final, hint=UTF8_FOLDER)
    staging = _staging(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(final)
        _check_replaceable(final, named, marker, overwrite)
        check_room(final.parent, needs_bytes, named)
        staging.mkdir()
        yield staging
        if not overwrite and _names_in(final):
            problem = "the output appeared while it was being made"
            raise MrlError(problem, where=named, hint="choose another name")
        _check_replaceable(final, named, marker, overwrite)
        if _occupied(final):
            _replace(staging, final)
        else:
            os.rename(staging, final)
        replace(final, marker=marker)
    except OSError as error:
        if (read := _elsewhere(error, staging, final)) is not None:
            problem = f"could not be read: {describe_os_error(error)}"
            hint = "check that it exists and may be read"
            raise MrlError(problem, where=read, hint=hint) from error
        raise MrlError(
            f"could not be written: {describe_os_error(error)}",
            where=named,
            hint=write_hint(error),
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def write_errors(named: object) -> Iterator[None]:
    """A failed write inside the block as one line, in which the output is called `named`.

    Raises:
        MrlError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        problem = f"could not be written: {describe_os_error(error)}"
        raise MrlError(problem, where=named, hint=write_hint(error)) from error


def check_room(folder: Path, needs_bytes: int, named: object) -> None:
    """Refuse an output, as errors are to name it, that its disk has no room for.

    Raises:
        MrlError: fewer bytes are free where `folder` is.
    """
    free = shutil.disk_usage(folder).free
    if needs_bytes > free:
        raise MrlError(
            f"the output needs {needs_bytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
            where=named,
            hint="free some space, or write elsewhere",
        )


def check_apart(source: Path, out: Path) -> None:
    """Refuse an output that holds its own source, which replacing it would delete.

    Raises:
        MrlError: `out` is `source`, or one of the folders around it.
    """
    if source.resolve().is_relative_to(out.resolve()):
        problem = f"the output would replace its own source, {source}"
        raise MrlError(problem, where=out, hint="choose another folder")


def _elsewhere(error: OSError, staging: Path, final: Path) -> Path | None:
    """The file that an error is about, where that is no part of the output."""
    if not isinstance(error.filename, str):
        return None
    path = Path(error.filename)
    whole = path.resolve()
    if any(whole.is_relative_to(place) for place in (staging, final)) or whole in final.parents:
        return None
    # Leftovers of the output beside it.
    return None if whole.name.startswith(f".{final.name}.partial-") else path


def _check_replaceable(final: Path, named: str, marker: str, overwrite: bool) -> None:
    """Raises an `MrlError` where something is there that may not be replaced."""
    names = _names_in(final)
    if not names:
        return
    if not overwrite:
        hint = "choose another name, or pass --overwrite"
        raise MrlError("the output exists already", where=named, hint=hint)
    is_there = (final / marker).is_file() if address_of(final) is None else marker in names
    if not is_there:
        raise MrlError(
            f"holds something else (there is no {marker}), so --overwrite does not replace it",
            where=named,
            hint="choose another name, or remove it yourself",
        )


def _names_in(final: Path) -> set[str]:
    """Names of what is in a folder, at its address if it has one; "" where it is a file."""
    objects = objects_at(final)
    if objects is not None:
        return set(objects)
    if final.is_dir():
        return {path.name if path.is_file() else f"{path.name}/" for path in final.iterdir()}
    return {""} if _occupied(final) else set()


def _occupied(folder: Path) -> bool:
    if folder.is_dir():
        return any(folder.iterdir())
    return folder.exists() or folder.is_symlink()


def _replace(staging: Path, final: Path) -> None:
    """Swap `staging` in, and put the old folder back if that fails."""
    old = staging.with_name(f"{staging.name}-old")
    os.rename(final, old)
    try:
        os.rename(staging, final)
    except BaseException:  # An interrupt as well.
        os.rename(old, final)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())


def _staging(final: Path) -> Path:
    """A hidden place beside `final` that no other process writes to."""
    writer = f"{_host()}-t{start_of(os.getpid())}-{os.getpid()}"
    return final.parent / f".{final.name}.partial-{writer}"


def _remove_leftovers(final: Path) -> None:
    """Remove what killed processes left of earlier outputs of this name."""
    mine = _host()
    for leftover in final.parent.glob(f"{glob.escape(f'.{final.name}.partial-')}*"):
        name = leftover.name.removeprefix(f".{final.name}.partial-")
        match = re.fullmatch(r"(?P<host>.+?)(-t(?P<start>\d+))?-(?P<pid>\d+)(?P<old>-old)?", name)
        if not match or not _abandoned(leftover, match, mine):
            continue
        if match["old"] and not final.exists():
            os.rename(leftover, final)  # Killed after the first of two renames.
        else:
            _remove(leftover)


def _abandoned(leftover: Path, match: re.Match[str], mine: str) -> bool:
    """Whether the process that wrote a folder is gone; of another host's, whether it is old."""
    if match["host"] != mine:
        return time.time() - _last_change(leftover) > OLD_SECONDS
    pid, start = int(match["pid"]), int(match["start"] or 0)
    # Our own number is that of a process which is gone, as containers reuse numbers.
    return pid == os.getpid() or not is_alive(pid, start)


def _last_change(folder: Path) -> float:
    """When the last file in a folder was written."""
    times = [folder.lstat().st_mtime]
    for root, folders, files in os.walk(folder):
        with contextlib.suppress(OSError):  # It may be going just now.
            times += [os.lstat(os.path.join(root, name)).st_mtime for name in (*folders, *files)]
    return max(times)


def open_regular(path: Path, *, where: object, hint: str | None = None) -> IO[bytes]:
    """A file opened for reading; what is no regular file is not opened, and nothing is waited for.

    Args:
        where: what errors call it.

    Raises:
        MrlError: there is none, it may not be read, or it is a folder, pipe or device.
    """
    problem = file_problem(path)
    if problem is None:
        try:
            # Even where a pipe has just taken the file's place, it is not waited for.
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError as error:
            problem = f"cannot be read: {describe_os_error(error)}"
        else:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
            problem = "was replaced while it was opened"
    raise MrlError(problem, where=where, hint=hint)


def make_folder(workdir: Path) -> None:
    """The run's folder, made if it is not there."""
    workdir = output_path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise MrlError("is a file, expected a folder", where=workdir, hint="choose another name")
    check_path_text(workdir.resolve(), hint=UTF8_FOLDER)
    workdir.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a killed process leaves the old one."""
    _write_whole(path, data, path.with_name(f".{path.name}.partial"))


def write_bytes_apart(path: Path, data: bytes) -> None:
    """`write_bytes` where other processes may write the same file: the last one's stays, whole.

    What a killed process left of this file is removed, as by `staged_folder`.
    """
    _remove_leftovers(path)
    _write_whole(path, data, _staging(path))


def _write_whole(path: Path, data: bytes, partial: Path) -> None:
    """Write beside the file first, at `partial`, and rename."""
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, apart: bool = False) -> None:
    """`write_bytes` of UTF-8; what UTF-8 has not, of a path say, is written as an escape.

    With `apart` other processes may write the same file, as by `write_bytes_apart`.
    """
    write = write_bytes_apart if apart else write_bytes
    write(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any, *, apart: bool = False) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", apart=apart)
