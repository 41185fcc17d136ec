"""The options of reports: frozen dataclasses whose fields are command-line options."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.core.limits import MAX_SECONDS


def option(text: str, **settings: Any) -> dict[str, Any]:
    """Metadata of a dataclass field that is an option of the command line as well.

    A field without a default is a required option. `text` is its help, and `settings` are more
    arguments of `argparse.ArgumentParser.add_argument`; `flags` where its names are others.
    """
    return {"help": text, **settings}


def integers(name: str, *, least: int = 1) -> Callable[[str], tuple[int, ...]]:
    """A reader of "256,128", each `least` or more, for the option `name`."""

    def read(text: str) -> tuple[int, ...]:
        try:
            values = tuple(int(part) for part in text.split(","))
        except ValueError as error:
            raise MrlError(f"{name} is {text!r}, expected numbers as in 256,128") from error
        if min(values) < least:
            raise MrlError(f"{name} is {text!r}, expected numbers of {least} or more")
        return values

    return read


def names(name: str, known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A reader of "a,b", each one of `known` and there once, for the option `name`."""

    def read(text: str) -> tuple[str, ...]:
        values = tuple(text.split(","))
        if set(values) - set(known) or len(set(values)) < len(values):
            raise MrlError(f"{name} is {text!r}, expected some of {','.join(known)}")
        return values

    return read


DIMS = option("comma-separated; default: those trained", type=integers("--dims"))
"""Prefixes to measure."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What every report takes."""

    data: Path | str = field(metadata=option("folder of a set, or its name: fleurs:wo-fr"))
    out: Path = field(metadata=option("report folder", type=Path))
    overwrite: bool = field(
        default=False, metadata=option("replace an earlier report", action="store_true")
    )
    max_seconds: float = field(
        default=MAX_SECONDS,
        metadata=option("recordings that are longer are refused; default: 3600", type=float),
    )

    @property
    def set_name(self) -> str:
        return set_name(self.data)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ReportOptions):
    """A report on one trained model."""

    model: Path = field(metadata=option("folder of a trained model", type=Path))
    out: Path = field(
        metadata=option(
            "report folder; default: MODEL/REPORT-DATA (MODEL/eval-DATA for retrieval)",
            type=Path,
            required=False,
        )
    )
    dims: Sequence[int] | None = field(default=None, metadata=DIMS)


@dataclass(frozen=True, kw_only=True)
class QueryOptions(ReportOptions):
    """A report on the queries of a retrieval set."""

    task: str | None = field(
        default=None,
        metadata=option("ask every query as one of the model's tasks; default: as the set says"),
    )
    prompt: str | None = field(
        default=None, metadata=option("or put this before every query, word for word")
    )


@dataclass(frozen=True, kw_only=True)
class SetOptions(ModelOptions, QueryOptions):
    """A report on one trained model and a retrieval set."""


def set_name(data: Path | str) -> str:
    """What a set is called: its name, or that of its folder."""
    return Path(data).resolve().name if Path(data).exists() else str(data).partition("@")[0]


def add_options(parser: argparse.ArgumentParser, kind: type[ReportOptions]) -> None:
    """Give a parser one option for each field."""
    for one in dataclasses.fields(kind):
        settings: dict[str, Any] = dict(one.metadata)
        flags = settings.pop("flags", (f"--{one.name.replace('_', '-')}",))
        if one.default is not dataclasses.MISSING:
            settings["default"] = one.default
        elif "required" not in settings:
            settings["required"] = True
        parser.add_argument(*flags, **settings)
