"""What a published config.json holds beside what is read: named, so that nothing is lost unseen."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError

from .families import Family
from .harmless_fields import HARMLESS


class WatchedConfig(Mapping[str, Any]):
    """A config.json that remembers which of its fields were read, also those within objects."""

    def __init__(self, raw: Mapping[str, Any], prefix: str = "", read: set[str] | None = None):
        self._raw, self._prefix = raw, prefix
        self.read: set[str] = set() if read is None else read

    def __getitem__(self, name: str) -> Any:
        value = self._raw[name]
        self.read.add(self._prefix + name)
        if isinstance(value, Mapping):
            return WatchedConfig(value, f"{self._prefix}{name}.", self.read)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __repr__(self) -> str:
        return repr(self._raw)

    def unread(self, harmless: frozenset[str]) -> dict[str, Any]:
        """Fields that hold something and were not read, by dotted name."""
        found: dict[str, Any] = {}
        for name, value in self._raw.items():
            path = self._prefix + name
            if path in harmless or value in (None, "", [], {}):
                continue
            if path not in self.read:
                found[path] = value
            elif isinstance(value, Mapping):
                found |= WatchedConfig(value, f"{path}.", self.read).unread(harmless)
        return found


def unread_fields(config: Mapping[str, Any], family: Family, *, where: object) -> dict[str, Any]:
    """Fields of a config.json that the family neither reads nor knows to be harmless."""
    watched = WatchedConfig(config)
    family.parse_config(watched, where=where)
    return watched.unread(HARMLESS | family.harmless)


def check_classes(config: Mapping[str, Any], family: Family, *, where: Path) -> None:
    """Refuses a checkpoint that names another class, or code of its own.

    The stock class on the same weights may compute something else.

    Raises:
        MrlError: `architectures` or `auto_map` names it.
    """
    known = sorted({*family.torch_classes.values(), *family.architectures})
    named = config.get("architectures") or []
    other = [name for name in named if name not in known] if isinstance(named, list) else [named]
    if other:
        raise MrlError(
            f"architectures names {', '.join(map(str, other))}, expected {' or '.join(known)}",
            where=where,
            hint="convert a checkpoint of a stock class: another may compute something else from "
            "the same weights",
        )
    code = config.get("auto_map")
    if code:
        stock = next(iter(family.torch_classes.values()))
        classes = code.values() if isinstance(code, Mapping) else [code]
        raise MrlError(
            f"auto_map names code of its own, {', '.join(map(str, classes))}, which is never run",
            where=where,
            hint=f"take auto_map out if that code computes what transformers' {stock} does",
        )
