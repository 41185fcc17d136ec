"""JSON files that describe one dataclass: read, checked against its types, one error path."""

import collections.abc
import contextlib
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from mrl_jax.core.checksums import SEAL, fields_digest, seal, update_hint
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.files import write_json
from mrl_jax.core.json_text import parse_json

Record = TypeVar("Record")
MAX_BYTES = 1 << 28
"""Of a description: more is not read."""
DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    MemoryError,
)
"""What values of a wrong type, size or depth raise where they are read."""


def write_description(
    path: Path, fields: Mapping[str, Any], *, version: int, apart: bool = False
) -> None:
    """Write a description whole or not at all, with its format and the digest of its fields.

    With `apart` other processes may write the same one.
    """
    # As they are read back: tuples are lists there, and keys are text.
    written = json.loads(json.dumps({"format": version, **fields}))
    write_json(path, seal(written), apart=apart)


def read_object(
    path: Path, *, version: int | None = None, sealed: bool = True, hint: str = ""
) -> dict[str, Any]:
    """The JSON object in a file, without its "format" where a version of it is expected.

    Where the object has a digest of its own (`write_description`), it is left out, and compared
    if it is to be `sealed`; the `hint` says how to replace one that differs.

    Raises:
        OSError, ValueError: no file, no JSON, no object, another version; see `readable_as`.
        MrlError: the object is not the one that was written.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, expected at most {MAX_BYTES:,}")
    raw = parse_json(path.read_bytes(), on_repeated_key=refuse_repeated)
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    if version is not None and raw.get("format") != version:
        raise ValueError(f"the format is not {version}")
    digest = raw.pop(SEAL, None)
    if sealed and digest is not None and digest != fields_digest(raw):
        problem = "is not the description that was written: the SHA-256 in it is of other contents"
        raise MrlError(problem, where=path, hint=update_hint(path.parent, hint))
    if version is not None:
        del raw["format"]
    return raw


def refuse_repeated(key: str) -> None:
    """For `parse_json`: an object of ours has no key twice."""
    raise ValueError(f"{key!r} is there twice")


def as_record(raw: Any, kind: type[Record]) -> Record:
    """A dataclass from the values that JSON has: lists become tuples, nested ones are built.

    Raises:
        ValueError, TypeError: a field that is missing, unknown or of another type.
    """
    if not isinstance(raw, Mapping):
        raise TypeError(f"{_shown(raw)} is no object")
    try:
        return _CONVERTER.structure(raw, kind)
    except cattrs.errors.ForbiddenExtraKeysError as error:
        raise ValueError(f"unknown fields: {', '.join(sorted(error.extra_fields))}") from error
    except KeyError as error:
        raise ValueError(f"the field {error} is missing") from error
    except MrlError as error:  # A value that the dataclass refuses.
        raise ValueError(str(error)) from error
    except (cattrs.errors.CattrsError, ArithmeticError) as error:
        raise ValueError(str(error)) from error


def read_record(
    path: Path,
    kind: type[Record],
    *,
    version: int,
    what: str,
    hint: str,
    parts: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda raw: {},
    sealed: bool = True,
) -> Record:
    """The dataclass that a description holds, as `write_description` wrote it.

    Args:
        path: the file.
        kind: the dataclass.
        version: of the format.
        what: the file should hold, "a tower description" for one.
        hint: how to replace a damaged one.
        parts: makes fields whose class depends on others, from all values of the file.
        sealed: refuse one that was edited since it was written.

    Raises:
        MrlError: the file cannot be read, or holds something else; whatever is wrong with it.
    """
    with readable_as(what, path, hint=hint):
        raw = read_object(path, version=version, sealed=sealed, hint=hint)
        made = parts(raw)
        return as_record({**raw, **made}, kind)


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
    except KeyError as error:
        problem = f"cannot be read as {what} (the field {_shown(error.args[0])} is missing)"
        raise MrlError(problem, where=path, hint=hint) from error
    except DAMAGED as error:
        problem = f"cannot be read as {what} ({first_line(error)})"
        raise MrlError(problem, where=path, hint=hint) from error


def _shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _exact(value: Any, kind: type) -> Any:
    """The value itself, not what `kind` makes of any other; whole numbers are floats too."""
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{_shown(value)} is no {kind.__name__}")
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(f"{_shown(value)} is too large")
    # Half a pair stands for a byte of a path (PEP 383), or for nothing.
    if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udc7f" for c in value):
        raise ValueError(f"{_shown(value)} holds a character that no text has")
    return kind(value)


_CONVERTER = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
for _kind in (int, float, str, bool):
    _CONVERTER.register_structure_hook(_kind, _exact)


def _is_generic(*origins: Any) -> Callable[[Any], bool]:
    return lambda kind: typing.get_origin(kind) in origins


def _tuple_from_list(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """From a list alone: text and objects can be iterated too."""
    inner = typing.get_args(kind)

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{_shown(value)} is no list")
        kinds = [inner[0]] * len(value) if inner[-1] is ... else list(inner)
        if len(kinds) != len(value):
            raise ValueError(f"{len(value)} entries, expected {len(kinds)}")
        pairs = zip(value, kinds, strict=True)
        return tuple(converter.structure(item, one) for item, one in pairs)

    return structure


def _mapping_from_object(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    names, values = typing.get_args(kind)

    def structure(value: Any, _: Any) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise TypeError(f"{_shown(value)} is no object")
        return {
            converter.structure(name, names): converter.structure(item, values)
            for name, item in value.items()
        }

    return structure


_CONVERTER.register_structure_hook_factory(_is_generic(tuple), _tuple_from_list)
_CONVERTER.register_structure_hook_factory(
    _is_generic(dict, collections.abc.Mapping), _mapping_from_object
)
