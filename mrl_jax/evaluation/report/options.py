"""The options of reports: frozen dataclasses whose fields are command-line options."""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError, readable
from mrl_jax.core.limits import MAX_SECONDS
from mrl_jax.core.paths import output_path, user_text
from mrl_jax.core.text import check_words
from mrl_jax.inference.model_option import MODEL_HELP, model_option


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


def seconds(name: str) -> Callable[[str], float]:
    """A reader of a number of seconds above 0 for the option `name`; "inf" is no limit."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not value > 0:
            raise MrlError(f"{name} is {readable(text)}, expected a number of seconds above 0")
        return value

    return read


DIMS = option("comma-separated; default: those trained", type=integers("--dims"))
"""Prefixes to measure."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What every report takes."""

    data: Path | str = field(
        metadata=option("folder of a set, or its name: fleurs:wo-fr", type=user_text)
    )
    out: Path = field(metadata=option("report folder", type=output_path))
    overwrite: bool = field(
        default=False, metadata=option("replace an earlier report", action="store_true")
    )
    max_seconds: float = field(
        default=MAX_SECONDS,
        metadata=option(
            "recordings that are longer are refused; default: 3600", type=seconds("--max-seconds")
        ),
    )
    verify: bool = field(
        default=True,
        metadata=option(
            "load without comparing files with their digests, which takes less time",
            flags=("--no-verify",),
            dest="verify",
            action="store_false",
        ),
    )

    def __post_init__(self) -> None:
        values = {f"--{name.replace('_', '-')}": value for name, value in vars(self).items()}
        check_words(values, prog="report")

    @property
    def set_name(self) -> str:
        return set_name(self.data)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ReportOptions):
    """A report on one trained model."""

    model: Path = field(metadata=option(MODEL_HELP, type=model_option))
    out: Path = field(
        metadata=option(
            "report folder; default: MODEL/REPORT-DATA (MODEL/eval-DATA for retrieval)",
            type=output_path,
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
    strict: bool = field(
        default=False,
        metadata=option(
            "refuse a set with empty documents, judgements of what is not there, or queries "
            "without a relevant document; default: the report counts them",
            action="store_true",
        ),
    )
    qrels_split: str | None = field(
        default=None,
        metadata=option("split of the judgements; default: test, or the only one there is"),
    )


@dataclass(frozen=True, kw_only=True)
class SetOptions(ModelOptions, QueryOptions):
    """A report on one trained model and a retrieval set."""


def set_name(data: Path | str) -> str:
    """What a set is called: its name, or that of its folder."""
    if Path(data).exists():
        return readable(Path(data).resolve().name)
    return readable(data).partition("@")[0]


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
