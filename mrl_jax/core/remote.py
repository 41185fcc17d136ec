"""Files of addresses, and their places on this machine, kept equal.

What is read is fetched first, and what was written is uploaded when it is whole. A table in the
cache says which object each file of a place equals; only what differs from it is transferred. A
folder's descriptions (.json, with digests of its other files) are uploaded last and removed first,
so that where there is a description, there is all that it describes.
"""

import contextlib
import fcntl
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from mrl_jax.core.addresses import address_of, addresses_of, cache_root, key_parts, place_of
from mrl_jax.core.errors import MrlError, describe_os_error, write_hint
from mrl_jax.core.known_objects import KnownObjects, inside
from mrl_jax.core.object_store import ObjectStore, StoredObject

WORKERS = 8
"""Files that are transferred at once; large ones have several connections each besides."""
RUN_FILE = "experiment.json"
ONLY_TO_RESUME = (
    "checkpoints/",
    "data/",
    "tensorboard/",
    "profile/",
    "metrics.jsonl",
    "attempts.jsonl",
)
"""Parts of a run, which has a `RUN_FILE`, that nobody wants who reads its model."""

UPLOAD_FILE = ".upload.partial"
"""At an address that is being replaced: by whom, and which file will say that it is whole."""

_UNFINISHED = re.compile(r"\..*partial.*|.*\.orbax-checkpoint-tmp.*|\.?run\.lock.*")
"""Names of what is being written, and of what concerns this machine alone."""


def fetch(address: str, *, whole: bool = False, optional: bool = False) -> Path:
    """Bring an object, or all objects below an address, to its place on this machine.

    Of what is there already only the listing is read again. A place is never half of one listing
    and half of another unless this fails: then the next call completes it.

    Args:
        address: of a folder or a file.
        whole: of a run also what only resuming takes, and nothing else stays at its place.
        optional: nothing need be there; then nothing is at its place either.

    Raises:
        MrlError: nothing is there; the store cannot be read; the disk takes no more.
    """
    place, store = place_of(address), ObjectStore(address)
    with disk_errors(place), alone(place):
        objects = _wanted_objects(store, address, optional=optional)
        left_out = ONLY_TO_RESUME if RUN_FILE in objects and not whole else ()
        objects = {k: v for k, v in objects.items() if not k.startswith(left_out)}
        known = KnownObjects(place)
        _check_names(objects, address)
        _remove_others(place, known, objects, left_out, all_of_them=whole)
        changed = {k: v for k, v in objects.items() if not known.has(k, v)}
        try:
            _download(store, address, place, changed, known)
        finally:
            known.write()
    return place


def _wanted_objects(store: ObjectStore, address: str, *, optional: bool) -> dict[str, StoredObject]:
    """What is whole at an address.

    Raises:
        MrlError: nothing is, though it is not `optional`.
    """
    objects = store.objects(address)
    if _is_half(store, address, objects):
        problem, hint = "an upload to it was not finished", "write it again, or wait for its end"
        objects = {}
    else:
        problem, hint = "nothing is there", "check the bucket and the rest of the address"
        objects = {name: one for name, one in objects.items() if not _is_unfinished(name)}
    if not objects and not optional:
        raise MrlError(problem, where=address, hint=hint)
    return objects


def fetch_files(paths: Iterable[Path], *, renew: bool = False) -> None:
    """Bring single files that a table names, where their paths are places of addresses.

    What is not at its address is left to whoever opens it.

    Args:
        paths: any paths; those that are no places are left alone.
        renew: those that are here already are compared with their objects too.

    Raises:
        MrlError: as `fetch`.
    """
    wanted = {path for path in addresses_of(paths) if renew or not path.exists()}
    for parent in sorted({path.parent for path in wanted}):
        folder = address_of(parent)
        assert folder is not None
        store, names = ObjectStore(folder), {path.name for path in wanted if path.parent == parent}
        with disk_errors(parent), alone(parent):
            known, objects = KnownObjects(parent), store.objects(folder)
            objects = {name: one for name, one in objects.items() if name in names}
            _check_names(objects, folder)
            for name in names - objects.keys():
                inside(parent, name).unlink(missing_ok=True)
            changed = {k: v for k, v in objects.items() if not known.has(k, v)}
            try:
                _download(store, folder, parent, changed, known)
            finally:
                known.write()


def objects_at(path: Path) -> Mapping[str, StoredObject] | None:
    """What is whole at the address of a place; None where the path is no place of one."""
    address = address_of(path)
    if address is None:
        return None
    return _wanted_objects(ObjectStore(address), address, optional=True)


def upload(path: Path, *, last: str = "", prune: tuple[str, ...] = ()) -> None:
    """Bring what has changed at a place to its address; nothing is done for any other path.

    Args:
        path: of a file or folder; what is being written there is left out.
        last: name of the file that is written after all others, besides the descriptions.
        prune: beginnings of names that are removed at the address when they are gone here.
            Others stay: a cache may have been cleaned.

    Raises:
        MrlError: the store cannot be written to.
    """
    address = address_of(path)
    if address is None:
        return
    store = ObjectStore(address)
    with disk_errors(path), alone(path):
        known, files = KnownObjects(path), files_in(path)
        changed = {n: inside(path, n).stat() for n in files if not known.is_current(n)}
        gone = {n for n in known.names() if n.startswith(prune) and n not in files} if prune else ()
        descriptions = {n for n in changed if n.endswith(".json") or n == last}
        others = changed.keys() - descriptions
        # A description is of what is beside and below it.
        stale = [n for n in descriptions if known.has_name(n) and _is_about(n, {*others, *gone})]
        remove(store, address, stale)
        _upload(store, address, path, sorted(others))
        for depth in sorted({name.count("/") for name in descriptions}, reverse=True):
            level = [n for n in descriptions if n.count("/") == depth and n != last]
            _upload(store, address, path, level)
        _upload(store, address, path, [last] if last in descriptions else [])
        remove(store, address, gone)
        objects = store.objects(address) if changed else {}
        for name, stat in changed.items():
            known.set(name, objects.get(name), stat)  # It may have grown since.
        for name in gone:
            known.set(name, None)
        known.write()


def _download(
    store: ObjectStore,
    address: str,
    place: Path,
    objects: Mapping[str, StoredObject],
    known: KnownObjects,
) -> None:
    """Fetch objects, each under a hidden name until it is whole."""

    def one(name: str) -> None:
        path, wanted = inside(place, name), objects[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            store.get(below(address, name), partial)
            if (size := partial.stat().st_size) != wanted.size:
                problem = f"came with {size} bytes, expected {wanted.size}"
                hint = "somebody is writing it, perhaps: try again"
                raise MrlError(problem, where=below(address, name), hint=hint)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        known.set(name, wanted)

    _transfer(one, objects, "fetching", {name: one.size for name, one in objects.items()})


def _upload(store: ObjectStore, address: str, place: Path, names: Sequence[str]) -> None:
    def one(name: str) -> None:
        store.put(inside(place, name), below(address, name))

    sizes = {name: inside(place, name).stat().st_size for name in names}
    _transfer(one, names, "uploading", sizes)


def _transfer(
    work: Callable[[str], None], names: Iterable[str], what: str, sizes: Mapping[str, int]
) -> None:
    """Several files at once; the first error ends it, after those that have begun."""
    from tqdm import tqdm

    names = list(names)
    with (
        ThreadPoolExecutor(WORKERS) as pool,
        tqdm(
            total=sum(sizes.values()),
            desc=what,
            unit="B",
            unit_scale=True,
            disable=not names or not sys.stderr.isatty(),
        ) as bar,
    ):
        futures = {pool.submit(work, name): name for name in names}
        try:
            for future, name in futures.items():
                future.result()
                bar.update(sizes[name])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def remove(store: ObjectStore, address: str, names: Iterable[str]) -> None:
    """Remove objects, descriptions before what they describe."""
    ordered = sorted(names, key=lambda name: (not name.endswith(".json"), name.count("/"), name))
    store.remove(below(address, name) for name in ordered)


def _remove_others(
    place: Path,
    known: KnownObjects,
    objects: Mapping[str, Any],
    left_out: tuple[str, ...],
    *,
    all_of_them: bool,
) -> None:
    """Remove files that the address had and has no more, or all of them that it does not have."""
    for name in files_in(place):
        left = not all_of_them and (name.startswith(left_out) or not known.has_name(name))
        if name in objects or left:
            continue
        inside(place, name).unlink(missing_ok=True)
        known.set(name, None)
        for folder in inside(place, name).parents:
            if not folder.is_relative_to(place):
                break
            with contextlib.suppress(OSError):
                folder.rmdir()


def _check_names(objects: Iterable[str], address: str) -> None:
    """Refuse keys that lead out of the place, or that are both a file and a folder."""
    names = set(objects)
    for name in names:
        parents = (str(parent) for parent in PurePosixPath(name).parents)
        both = any(parent in names for parent in parents if parent != ".")
        if name and (key_parts(name) is None or both or "" in names):
            problem = "an object has a key that cannot be the path of a file"
            hint = "remove or rename it"
            raise MrlError(problem, where=below(address, name), hint=hint)


def files_in(place: Path) -> list[str]:
    """Names of the files in a place, "" for that of a file; without what is being written."""
    if place.is_file():
        return [""]
    names = []
    for root, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not _UNFINISHED.fullmatch(name)]
        inside = Path(root).relative_to(place)
        names += [(inside / f).as_posix() for f in files if not _UNFINISHED.fullmatch(f)]
    return names


def _is_unfinished(name: str) -> bool:
    return any(_UNFINISHED.fullmatch(part) for part in name.split("/"))


def _is_half(store: ObjectStore, address: str, objects: Iterable[str]) -> bool:
    """Whether a replacement was begun, and what would say that it is whole is not there."""
    if UPLOAD_FILE not in objects:
        return False
    sign = store.read(below(address, UPLOAD_FILE))
    return sign is not None and sign.decode("utf-8", "replace").partition(" ")[2] not in objects


def _is_about(description: str, names: Iterable[str]) -> bool:
    folder = description.rpartition("/")[0]
    return any(not folder or name.startswith(f"{folder}/") for name in names)


def below(address: str, name: str) -> str:
    """The address of a name below another; "" is that itself."""
    return f"{address.rstrip('/')}/{name}" if name else address


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """No other process of this machine transfers files of this place meanwhile."""
    folder = cache_root() / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    # Places inside one another have locks of their own: files appear whole in any case, and
    # what is missing from a table is transferred once more.
    name = uuid.uuid5(uuid.NAMESPACE_URL, str(place)).hex
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """A failed read or write of this machine's disk as one line."""
    try:
        yield
    except OSError as error:
        problem = f"the cache on this machine could not be written: {describe_os_error(error)}"
        raise MrlError(problem, where=place, hint=write_hint(error)) from error
