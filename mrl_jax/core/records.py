"""JSON files that describe one dataclass: read, checked against its types, one error path."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from mrl_jax.core.errors import MrlError
from mrl_jax.core.json_text import parse_json

Record = TypeVar("Record")


def read_object(path: Path, *, version: int | None = None) -> dict[str, Any]:
    """The JSON object in a file, without its "format" where a version of it is expected.

    Raises:
        OSError, ValueError: no file, no JSON, no object, another version; see `readable_as`.
    """
    raw = parse_json(path.read_bytes())
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    if version is not None and raw.pop("format", None) != version:
        raise ValueError(f"the format is not {version}")
    return raw


def as_record(raw: Mapping[str, Any], kind: type[Record]) -> Record:
    """A dataclass from the values that JSON has: lists become tuples, nested ones are built.

    Raises:
        ValueError, TypeError: a field that is missing, unknown or of another type.
    """
    try:
        return _CONVERTER.structure(raw, kind)
    except cattrs.errors.ForbiddenExtraKeysError as error:
        raise ValueError(f"unknown fields: {', '.join(sorted(error.extra_fields))}") from error
    except cattrs.errors.CattrsError as error:
        raise ValueError(str(error)) from error
    except KeyError as error:
        raise ValueError(f"the field {error} is missing") from error


@contextlib.contextmanager
def readable_as(what: str, path: Path, *, hint: str) -> Iterator[None]:
    """Turns an error that a damaged file raises inside the block into one line.

    Args:
        what: the file should hold, "a tower description" for one.
        path, hint: the file, and how to replace it.

    Raises:
        MrlError: the block raised one of the errors of damaged files.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MrlError(f"cannot be read as {what} ({error})", where=path, hint=hint) from error


def _exact(value: Any, kind: type) -> Any:
    """The value itself, not what `kind` makes of any other; whole numbers are floats too."""
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return kind(value)


_CONVERTER = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
for _kind in (int, float, str, bool):
    _CONVERTER.register_structure_hook(_kind, _exact)
