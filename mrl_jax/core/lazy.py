"""Packages whose public names are imported when they are first used (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def homes_of(package: str, names: Mapping[str, str]) -> dict[str, str]:
    """Name to module, from module (relative to `package`) to its names, separated by spaces."""
    return {name: f"{package}.{module}" for module in names for name in names[module].split()}


def lazy_getattr(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names come from the modules of `homes_of`."""

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return [*homes]
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return __getattr__
