"""Reading a published config.json: each field typed, each unsupported option refused by name."""

import sys
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mrl_jax.core.errors import MrlError

Choice = TypeVar("Choice")
Config = TypeVar("Config")
_ABSENT = object()
LARGEST = (1 << 31) - 1
"""Of a size: what indices of arrays hold."""
MOST_ENTRIES = 64
"""Of a list of sizes, one for each convolution."""


def _shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


class Fields:
    """The fields of one config.json; every refusal names the file and the field."""

    def __init__(self, raw: Mapping[str, Any], where: object):
        self.raw = raw
        self.where = where

    def integer(self, name: str, default: Any = _ABSENT) -> int:
        """A positive whole number."""
        value = self._get(name, default)
        if type(value) is not int or not 0 < value <= LARGEST:
            self._fail(f"{name} is {_shown(value)}, expected a whole number from 1 to {LARGEST}")
        return value

    def number(self, name: str, default: Any = _ABSENT) -> float:
        """A positive number."""
        value = self._get(name, default)
        if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
            self._fail(f"{name} is {_shown(value)}, expected a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            self._fail(f"{name} is {_shown(value)}, expected true or false")
        return value

    def integers(self, name: str, default: Any = _ABSENT) -> tuple[int, ...]:
        """A list of positive whole numbers."""
        values = self._get(name, default)
        if not isinstance(values, list | tuple) or not 0 < len(values) <= MOST_ENTRIES:
            self._fail(f"{name} is {_shown(values)}, expected a list of whole numbers")
        return tuple(Fields({name: value}, self.where).integer(name) for value in values)

    def choice(self, name: str, allowed: tuple[Choice, ...], default: Any = _ABSENT) -> Choice:
        """One of a few values."""
        value = self._get(name, default)
        if value not in allowed:
            expected = " or ".join(map(repr, allowed))
            self._fail(f"{name} is {_shown(value)}, expected {expected}")
        return value

    def require(self, name: str, expected: str, default: Any = _ABSENT) -> None:
        """Refuse any value but the one that is supported."""
        value = self._get(name, default)
        if value != expected:
            self._fail(
                f"{name} is {_shown(value)}, and only {expected!r} is supported here",
                hint="convert a checkpoint of the supported kind",
            )

    def refuse(self, name: str, meaning: str) -> None:
        """Refuse an option that is switched on."""
        if self.raw.get(name):
            self.unsupported(name, self.raw[name], meaning)

    def refuse_others(self, known: Container[str]) -> None:
        """Refuse fields of other names that hold something."""
        for name, value in self.raw.items():
            if value and name not in known:
                self.unsupported(name, value, "this field, which is not known here,")

    def unsupported(self, name: str, value: Any, meaning: str) -> NoReturn:
        self._fail(
            f"{name} is {_shown(value)}, and {meaning} is not supported",
            hint="convert a checkpoint without this option",
        )

    def build(self, config_type: type[Config], **values: Any) -> Config:
        """The config; its own checks fail with this file's name."""
        try:
            return config_type(**values)
        except ValueError as error:
            self._fail(str(error))

    def _get(self, name: str, default: Any) -> Any:
        value = self.raw.get(name)
        value = default if value is None else value
        if value is _ABSENT:
            self._fail(f"{name} is missing")
        return value

    def _fail(self, problem: str, *, hint: str | None = None) -> NoReturn:
        raise MrlError(
            problem,
            where=self.where,
            hint=hint or f"take {Path(str(self.where)).name} from the checkpoint's own folder",
        )
