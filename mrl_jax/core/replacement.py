"""A folder that takes the place of whatever is at its address.

Objects cannot be renamed, so it is uploaded file by file. Meanwhile a sign at the address says so,
and a note in the folder; where the upload was cut off, the next reader on this machine finishes it,
and any other machine may write there anew.
"""

import json
import uuid
from pathlib import Path
from typing import Any

from mrl_jax.core.addresses import address_of
from mrl_jax.core.errors import MrlError
from mrl_jax.core.known_objects import KnownObjects
from mrl_jax.core.object_store import ObjectStore
from mrl_jax.core.remote import UPLOAD_FILE, alone, below, disk_errors, files_in, remove, upload


def replace(path: Path, *, marker: str) -> None:
    """Upload a folder in the place of what is at its address; nothing is done for other paths.

    Args:
        path: the folder.
        marker: the file that says that the folder is whole, which is removed first and written
            last.

    Raises:
        MrlError: as `core.remote.upload`; another process wrote there meanwhile.
    """
    address = address_of(path)
    if address is None:
        return
    store = ObjectStore(address)
    with disk_errors(path), alone(path / UPLOAD_FILE):
        note = {
            "sign": f"{uuid.uuid4().hex} {marker}",
            "before": _tags(store, address),
            "files": _states(path),
        }
        (path / UPLOAD_FILE).write_text(json.dumps(note), encoding="utf-8")
        _replace(store, address, path, note)


def finish_replacement(place: Path) -> None:
    """Upload what an earlier `replace` on this machine did not, unless either side has changed.

    Args:
        place: of an address; nothing is done for other paths.

    Raises:
        MrlError: as `replace`.
    """
    address = address_of(place)
    if address is None or not (place / UPLOAD_FILE).is_file():
        return
    store = ObjectStore(address)
    with disk_errors(place), alone(place / UPLOAD_FILE):
        note = _note_in(place)
        if note is None:  # Another process was at it, and has finished.
            return
        sign = store.read(below(address, UPLOAD_FILE))
        before = sign is None and _tags(store, address) == note["before"]
        is_ours = before or sign == note["sign"].encode()
        if is_ours and _states(place) == note["files"]:
            _replace(store, address, place, note)
        else:
            (place / UPLOAD_FILE).unlink()


def _replace(store: ObjectStore, address: str, path: Path, note: dict[str, Any]) -> None:
    sign, sign_address = note["sign"].encode(), below(address, UPLOAD_FILE)
    marker = note["sign"].partition(" ")[2]
    before = store.objects(address)
    store.write(sign_address, sign)
    remove(store, address, [name for name in before if name == marker])
    with alone(path):
        known = KnownObjects(path)
        known.forget()
        known.write()
    upload(path, last=marker)
    if store.read(sign_address) != sign:
        problem = "another process wrote here at the same time"
        raise MrlError(problem, where=address, hint="stop one of the two, and write it again")
    kept = {*files_in(path), UPLOAD_FILE}
    remove(store, address, [name for name in before if name not in kept])
    store.remove([sign_address])
    (path / UPLOAD_FILE).unlink(missing_ok=True)


def _tags(store: ObjectStore, address: str) -> dict[str, str]:
    return {name: one.tag for name, one in store.objects(address).items()}


def _states(path: Path) -> dict[str, list[int]]:
    """Size and time of change of each file."""
    stats = {name: (path / name).stat() for name in files_in(path)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _note_in(place: Path) -> dict[str, Any] | None:
    try:
        note = json.loads((place / UPLOAD_FILE).read_text(encoding="utf-8"))
        return {"sign": str(note["sign"]), "before": note["before"], "files": note["files"]}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # A kill while it was written.
        return {"sign": "", "before": None, "files": None}
