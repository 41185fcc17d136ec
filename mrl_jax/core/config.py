"""Frozen dataclasses as configs: from a Python file, changed by dotted names, to JSON."""

import ast
import dataclasses
import runpy
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mrl_jax.core.errors import ArgumentError, MrlError, first_line
from mrl_jax.core.extras import missing_package
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.text import check_text, is_path

Config = TypeVar("Config")

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "none",
    Mapping: "values by name",
}

_LITERALS = {"true": "True", "false": "False", "inf": "1e999", "-inf": "-1e999"}
"""Words of the command line, as Python writes them."""


def load_config(path: Path, *kinds: type[Config], where: object = None) -> Config:
    """What `get_config()` of a Python file returns.

    Args:
        path: a file of configs/; code that is run, so only ever the user's own.
        kinds: the dataclasses of which it must return one.
        where: what errors call the file; default: its path.

    Raises:
        MrlError: no `get_config`, another result, or an error in the file.
    """
    where = path if where is None else where
    expected = " or ".join(kind.__name__ for kind in kinds)
    try:
        module = runpy.run_path(str(path))
        if "get_config" not in module:
            hint = f"define one that returns {expected}"
            raise MrlError("has no get_config()", where=where, hint=hint)
        config = module["get_config"]()
    except MrlError as error:
        if error.where is not None:
            raise
        raise MrlError(error.problem, where=where, hint=error.hint) from error
    except (Exception, SystemExit) as error:  # Whatever the user's file raises.
        problem = f"the config fails: {type(error).__name__}: {first_line(error)}"
        refusal = MrlError(problem, where=where, hint="correct the file")
        if isinstance(error, ImportError):
            refusal = missing_package(error, "the config", where) or refusal
        raise refusal from error
    if not isinstance(config, kinds):
        problem = f"get_config() returns {type(config).__name__}, expected {expected}"
        raise MrlError(problem, where=where)
    _check_texts(to_json(config), where)
    return config


def override(config: Config, assignments: Sequence[str]) -> Config:
    """A config with some fields changed, each `dotted.name=value`.

    All assignments are applied before the result is checked, so their order does not matter;
    of two for the same field the last counts. Values are read as Python literals (`3e-4`,
    `true`, `none`, `[64,32]`), and as plain text for fields that hold text.

    Raises:
        MrlError: no such field (the nearest is named), a value of another type, or a result
            that its dataclass refuses.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise MrlError(
                f"{assignment!r} is no option and no assignment",
                hint="write dotted.name=value, for instance optim.learning_rate=1e-4",
            )
        _collect(changes, config, name, text)
    changed = _replaced(config, changes)
    _check_texts(to_json(changed))
    return changed


def to_json(config: Any) -> Any:
    """A config as JSON values."""
    if _is_group(config):
        return to_json(vars(config))
    if isinstance(config, Mapping):
        return {str(key): to_json(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_json(value) for value in config]
    if callable(config):  # By name: an address would differ in each process.
        return f"{config.__module__}.{getattr(config, '__qualname__', type(config).__name__)}"
    return config if isinstance(config, str | int | float | bool | None) else str(config)


def _check_texts(value: Any, where: object = None, name: str = "") -> None:
    """Refuse text that cannot be written in any field, other than the path of something there."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            check_text(str(key), f"a name in {name or 'the config'}", where=where)
            _check_texts(inner, where, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, str) and not is_path(value):
        check_text(value, name, where=where)


def _collect(changes: dict[str, Any], config: Any, dotted: str, text: str) -> None:
    """Put one assignment into a tree of new values that has the shape of the config."""
    head, *rest = dotted.split(".")
    while True:
        known = [field.name for field in dataclasses.fields(config)]
        if head not in known:
            raise MrlError(f"the config has no field {dotted!r}", hint=did_you_mean(head, known))
        old, hints = getattr(config, head), typing.get_type_hints(type(config))
        if not rest:
            break
        if isinstance(old, Mapping):
            [*_, kind] = typing.get_args(hints[head]) or [str]
            value = _parse(text, kind, dotted)
            changes[head] = {**changes.get(head, old), ".".join(rest): value}
            return
        if old is None and any(map(dataclasses.is_dataclass, _options(hints[head]))):
            group = dotted.removesuffix("." + ".".join(rest))
            raise MrlError(f"{group} is none", hint=f"set {group} in a config file first")
        if not _is_group(old):
            problem = f"{dotted!r} goes deeper than the config does"
            raise MrlError(problem, hint="drop its last part")
        changes, config = changes.setdefault(head, {}), old
        if changes is None:
            raise _left_out(dotted)
        head, *rest = rest
    kind = hints[head]
    if _is_group(old):
        if not _is_none(text, kind):
            inner = ", ".join(field.name for field in dataclasses.fields(old))
            raise MrlError(f"{dotted!r} is a group of fields", hint=f"name one of {inner}")
        if changes.get(head):
            raise _left_out(dotted)
    changes[head] = _parse(text, kind, dotted)


def _left_out(dotted: str) -> MrlError:
    problem = f"{dotted!r} contradicts another assignment: its group is left out"
    return MrlError(problem, hint="drop one of the two")


def _replaced(config: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """The config with a tree of new values; every dataclass that changes is built once."""
    if not changes:
        return config
    new = dict(changes)
    for name, value in changes.items():
        if _is_group(old := getattr(config, name)) and value is not None:
            new[name] = _replaced(old, value, f"{prefix}{name}.")
    try:
        return dataclasses.replace(config, **new)
    except ArgumentError as error:  # By the name of the class, which nobody typed.
        raise MrlError(f"{prefix}{error.problem}", hint=error.hint) from error


def _is_group(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _parse(text: str, hint: Any, dotted: str) -> Any:
    options = _options(hint)
    if _is_none(text, hint):
        return None
    if any(typing.get_origin(option) is typing.Literal for option in options):
        known = [str(value) for option in options for value in typing.get_args(option)]
        if text in known:
            return text
        raise MrlError(
            f"{dotted} is {text!r}, expected one of {', '.join(known)}",
            hint=did_you_mean(text, known, otherwise=""),
        )
    if str in options:
        return text
    try:
        value = ast.literal_eval(_LITERALS.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = _bare_words(text)
    for option in options:
        if (fitted := _fit(value, option)) is not None:
            return fitted
    names = " or ".join(map(_in_words, options))
    by_name = typing.get_origin(hint) is Mapping
    correction = f"write {dotted}.NAME={text}" if by_name else "correct the value"
    raise MrlError(f"{dotted} is {text!r}, expected {names}", hint=correction)


def _bare_words(text: str) -> str | tuple[str, ...]:
    """[a,b] as a shell passes it on, which takes quotes away; any other text as it is."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    return tuple(word.strip() for word in text[1:-1].split(","))


def _in_words(option: Any) -> str:
    """What a field takes, for a message."""
    origin = typing.get_origin(option) or option
    if origin is tuple:
        item, *rest = typing.get_args(option) or (str, ...)
        length = "" if rest == [...] else f" of {1 + len(rest)}"
        return f"a list{length}, each {_in_words(item)}"
    return _WORDS.get(origin, getattr(option, "__name__", str(option)))


def _is_none(text: str, hint: Any) -> bool:
    return text.lower() in ("none", "null") and type(None) in _options(hint)


def _fit(value: Any, option: Any) -> Any:
    """The value as an `option`, or None where it is none."""
    origin = typing.get_origin(option) or option
    if origin is bool or isinstance(value, bool):
        return value if origin is bool and isinstance(value, bool) else None
    if origin is float and isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return None
    if origin is int and isinstance(value, int):
        return value
    if origin is tuple:
        values = value if isinstance(value, tuple | list) else (value,)
        inner, *rest = typing.get_args(option) or (str, ...)
        if rest != [...] and len(values) != 1 + len(rest):
            return None
        fitted = [_fit(item, inner) for item in values]
        return None if any(item is None for item in fitted) else tuple(fitted)
    return value if origin is str and isinstance(value, str) else None


def _options(hint: Any) -> tuple[Any, ...]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.get_args(hint)
    return (hint,)
