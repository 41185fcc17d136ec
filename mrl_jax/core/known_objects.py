"""Which object of a store each file of the cache equals, as tables in the cache say, one a folder.

A file that was changed here since then, or whose object was, equals none. So a table that is lost
costs a transfer and no more.
"""

import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import Any

from mrl_jax.core.addresses import cache_root
from mrl_jax.core.object_store import StoredObject

TABLES, TABLE_FILE = ".known", "objects.json"
"""The folder of all tables, below that of all places."""


def inside(place: Path, name: str) -> Path:
    """The file of that name in a place; "" is the place itself."""
    return place / name if name else place


class KnownObjects:
    """Which object each file of a place equals.

    Args:
        place: of the file or folder whose names are asked about.
    """

    def __init__(self, place: Path):
        self._place, self._root = place, cache_root()
        self._tables: dict[Path, dict[str, list[Any]]] = {}
        self._changed: dict[Path, dict[str, list[Any] | None]] = {}

    def has_name(self, name: str) -> bool:
        """Whether a file equalled an object once."""
        path = inside(self._place, name)
        return path.name in self._table(path.parent)

    def is_current(self, name: str) -> bool:
        """Whether a file is as it was when it equalled its object."""
        path = inside(self._place, name)
        entry = self._table(path.parent).get(path.name)
        try:
            stat = path.stat()
        except OSError:
            return False
        return entry is not None and entry[2:] == [stat.st_size, stat.st_mtime_ns]

    def has(self, name: str, stored: StoredObject) -> bool:
        """Whether a file equals this object."""
        path = inside(self._place, name)
        entry = self._table(path.parent).get(path.name)
        same = entry is not None and entry[:2] == [stored.size, stored.tag]
        return same and self.is_current(name)

    def set(
        self, name: str, stored: StoredObject | None, stat: os.stat_result | None = None
    ) -> None:
        """A file, or what it was at the time of `stat`, equals this object; None: it is gone."""
        path = inside(self._place, name)
        table = self._table(path.parent)
        entry = None
        if stored is not None:
            stat = stat or path.stat()
            entry = [stored.size, stored.tag, stat.st_size, stat.st_mtime_ns]
        self._changed.setdefault(path.parent, {})[path.name] = entry
        _put(table, path.name, entry)

    def names(self) -> list[str]:
        """Of all files that were equal to an object once."""
        top = self._table_file(self._place).parent
        names = [""] if self.has_name("") else []
        for file in top.rglob(TABLE_FILE):
            folder = file.parent.relative_to(top)
            names += [(folder / n).as_posix() for n in self._table(self._place / folder)]
        return names

    def forget(self) -> None:
        """Nothing is known of a place any more."""
        for name in self.names():
            self.set(name, None)

    def write(self) -> None:
        """Write what has changed into the tables, beside what others wrote there meanwhile."""
        for folder, changes in self._changed.items():
            file = self._table_file(folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.with_name(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                table = self._tables[folder] = self._read(folder)
                for name, entry in changes.items():
                    _put(table, name, entry)
                partial = file.with_name(f".{uuid.uuid4().hex}.partial")
                partial.write_text(json.dumps(table), encoding="utf-8")
                os.replace(partial, file)
        self._changed.clear()

    def _table(self, folder: Path) -> dict[str, list[Any]]:
        if folder not in self._tables:
            self._tables[folder] = self._read(folder)
        return self._tables[folder]

    def _read(self, folder: Path) -> dict[str, list[Any]]:
        try:
            table = json.loads(self._table_file(folder).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return table if isinstance(table, dict) else {}

    def _table_file(self, folder: Path) -> Path:
        return self._root / TABLES / folder.relative_to(self._root) / TABLE_FILE


def _put(table: dict[str, list[Any]], name: str, entry: list[Any] | None) -> None:
    if entry is None:
        table.pop(name, None)
    else:
        table[name] = entry
