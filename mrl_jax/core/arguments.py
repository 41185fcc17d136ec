"""Arguments checked against a function's own annotations, where users call the library.

`checked` makes a public function or class refuse a wrong type, dtype, shape, choice or number in
one line that names the argument, before anything is computed. What an annotation cannot say, two
arguments that contradict each other for one, the function checks itself.
"""

import collections.abc as abc
import dataclasses
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray, jaxtyped

from mrl_jax.core.errors import ArgumentError, readable
from mrl_jax.core.text import flaw_of

CHECKED = "arguments_checked"
"""Attribute of functions whose arguments are checked."""
Checked = TypeVar("Checked", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that an `Annotated` int or float may be, ends included.

    Attributes:
        open: the lower end itself is none of them.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def __contains__(self, value: Any) -> bool:
        above = self.low < value if self.open else self.low <= value
        return bool(above and value <= self.high)

    def __str__(self) -> str:
        low, high = (
            f"{x:,.0f}" if float(x).is_integer() else f"{x:g}" for x in (self.low, self.high)
        )
        if self.high == math.inf:
            return f"above {low}" if self.open else f"{low} or more"
        return f"{'above ' if self.open else ''}{low} to {high}"


LARGEST = 2.0**31 - 1
"""Of a size: what the indices of arrays hold."""
Size = Annotated[int, Range(1.0, LARGEST)]
"""Of a module: it becomes a dimension of arrays."""
PositiveInt = Annotated[int, Range(1.0)]
"""One or more of something."""
NonNegativeInt = Annotated[int, Range(0.0)]
PositiveFloat = Annotated[float, Range(0.0, open=True)]
"""Above zero; infinity is a number here, as "no limit"."""
NonNegativeFloat = Annotated[float, Range(0.0)]
Fraction = Annotated[float, Range(0.0, 1.0)]


def checked(thing: Checked) -> Checked:
    """The function, or the class, with its arguments checked; a class is checked when it is made.

    Raises:
        ArgumentError: when it is called: an argument is not what its annotation says.
    """
    if inspect.isclass(thing):
        thing.__init__ = checked(thing.__init__)
        return thing  # pyright: ignore[reportReturnType]
    signature = inspect.signature(thing)

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return thing(*args, **kwargs)  # Python's own words for a missing argument.
        with jaxtyped("context"):  # A letter in a shape means one size in all arguments.
            for name, value, hint in _given(call, bound):
                problem = mismatch(value, hint)
                if problem is not None:
                    raise ArgumentError(f"{name} is {problem}", where=_name_of(thing))
        return thing(*args, **kwargs)

    setattr(call, CHECKED, True)
    return call  # pyright: ignore[reportReturnType]


def _name_of(thing: Callable[..., Any]) -> str:
    return thing.__qualname__.removesuffix(".__init__")


@functools.cache
def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(call, include_extras=True)


def _given(call: Any, bound: inspect.BoundArguments) -> abc.Iterator[tuple[str, Any, Any]]:
    """Name, value and annotation of each argument that was passed; `Unpack` by its keys."""
    hints = _hints(call)
    for name, value in bound.arguments.items():
        kind, hint = bound.signature.parameters[name].kind, hints.get(name, Any)
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((name, one, hint) for one in value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            if typing.get_origin(hint) is typing.Unpack:
                fields = typing.get_type_hints(typing.get_args(hint)[0], include_extras=True)
                hints_of = {key: fields.get(key, Any) for key in value}
            else:
                hints_of = dict.fromkeys(value, hint)
            yield from ((key, one, hints_of[key]) for key, one in value.items())
        else:
            yield name, value, hint


def mismatch(value: Any, hint: Any) -> str | None:
    """What a value is and what was expected; None where it is as its annotation says."""
    if typing.get_origin(hint) is Annotated:
        kind, *more = typing.get_args(hint)
        problem = mismatch(value, kind)
        allowed = [one for one in more if isinstance(one, Range)]
        if problem is None and isinstance(value, numbers.Real):
            wrong = [one for one in allowed if value not in one]
            return f"{value!r:.60}, expected {wrong[0]}" if wrong else None
        return problem
    if _is_union(hint):
        options = typing.get_args(hint)
        is_dtype = np.dtype in options  # JAX's DTypeLike.
        return _dtype_mismatch(value, options) if is_dtype else _union_mismatch(value, options)
    if _is_array(hint):
        return None if isinstance(value, hint) else f"{spelled(value)}, expected {_shape_of(hint)}"
    check = _CHECKS.get(typing.get_origin(hint) or hint)
    if check is not None:
        return check(value, hint)
    kind = typing.get_origin(hint) or hint
    no_type = not inspect.isclass(kind) or typing.is_typeddict(kind)
    if no_type or (_is_protocol(kind) and not getattr(kind, "_is_runtime_protocol", False)):
        return None
    return None if isinstance(value, kind) else f"{spelled(value)}, expected {_words(hint)}"


def _dtype_mismatch(value: Any, options: tuple[Any, ...]) -> str | None:
    if value is None and type(None) in options:
        return None
    try:
        known = value is not None and jnp.issubdtype(jnp.dtype(value), jnp.generic)
    except (TypeError, ValueError):
        known = False
    return None if known else f"{spelled(value)}, expected a dtype such as 'float32'"


def spelled(value: Any) -> str:
    """A wrong argument in a few words: an array by its dtype and shape, others as they are."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = ", a JAX array" if isinstance(value, jax.Array) else ""
        return f"{value.dtype} of shape {tuple(value.shape)}{kind}"
    if isinstance(value, str | int | float | None):
        return readable(f"{value!r:.60}")
    return f"a {type(value).__name__}"


def _union_mismatch(value: Any, options: tuple[Any, ...]) -> str | None:
    if Path in options and isinstance(value, str):
        return "a path with a NUL character, expected another" if "\0" in value else None
    problems = [mismatch(value, option) for option in options]
    if None in problems:
        return None
    # Of the right type, but with something wrong in it: that is the nearest.
    near = [p for p, option in zip(problems, options, strict=True) if _right_type(value, option)]
    if near:
        return near[0]
    return f"{spelled(value)}, expected {' or '.join(dict.fromkeys(map(_words, options)))}"


def _right_type(value: Any, option: Any) -> bool:
    if typing.get_origin(option) is Annotated:
        option = typing.get_args(option)[0]
    kind = typing.get_origin(option) or option
    if kind is abc.Sequence and isinstance(value, str):
        return False
    return inspect.isclass(kind) and not _is_array(kind) and isinstance(value, kind)


def _check_int(value: Any, hint: Any) -> str | None:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        fits = -(2**63) <= int(value) < 2**63
        return None if fits else "a whole number beyond 64 bits, expected a smaller one"
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu":
        return None
    return f"{spelled(value)}, expected a whole number"


def _check_float(value: Any, hint: Any) -> str | None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return f"{spelled(value)}, expected a number"
    try:
        return "NaN, expected a number" if math.isnan(value) else None
    except OverflowError:
        return "a whole number too large, expected a number"


def _check_bool(value: Any, hint: Any) -> str | None:
    is_bool = isinstance(value, bool | np.bool_)
    return None if is_bool else f"{spelled(value)}, expected True or False"


def _check_str(value: Any, hint: Any) -> str | None:
    if not isinstance(value, str):
        return f"{spelled(value)}, expected text"
    flaw = flaw_of(value)
    return None if flaw is None else f"{spelled(value)}, which {flaw}"


def _check_path(value: Any, hint: Any) -> str | None:
    if not isinstance(value, Path):
        return f"{spelled(value)}, expected a path"
    return "a path with a NUL character, expected another" if "\0" in str(value) else None


def _check_literal(value: Any, hint: Any) -> str | None:
    known = typing.get_args(hint)
    if isinstance(value, abc.Hashable) and value in known:
        return None
    return f"{spelled(value)}, expected {' or '.join(map(repr, known))}"


def _check_items(value: Any, hint: Any) -> str | None:
    """A sequence or another collection: one string is none, and every item is checked."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if isinstance(value, str | bytes) or not isinstance(value, kind):
        one = "one string, " if isinstance(value, str) else ""
        return f"{one}{spelled(value)}, expected {_words(hint)}"
    if not inner or isinstance(value, abc.Iterator):
        return None
    if kind is tuple and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            return f"a tuple of {len(value)}, expected {len(inner)}"
        pairs = zip(value, inner, strict=True)
    else:
        pairs = ((one, inner[0]) for one in value)
    for number, (one, option) in enumerate(pairs):
        if (problem := mismatch(one, option)) is not None:
            return f"a {type(value).__name__} whose item {number} is {problem}"
    return None


def _check_mapping(value: Any, hint: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{spelled(value)}, expected values by name"
    key_hint, value_hint = typing.get_args(hint) or (Any, Any)
    for key, one in value.items():
        problem = mismatch(key, key_hint)
        if problem is not None:
            return f"a mapping with a name that is {problem}"
        if (problem := mismatch(one, value_hint)) is not None:
            return f"a mapping whose {spelled(key)} is {problem}"
    return None


def _check_callable(value: Any, hint: Any) -> str | None:
    return None if callable(value) else f"{spelled(value)}, expected a function"


_CHECKS: dict[Any, Callable[[Any, Any], str | None]] = {
    Any: lambda value, hint: None,
    bool: _check_bool,
    int: _check_int,
    float: _check_float,
    str: _check_str,
    Path: _check_path,
    None: lambda value, hint: None if value is None else f"{spelled(value)}, expected None",
    type(None): lambda value, hint: None if value is None else f"{spelled(value)}, expected None",
    typing.Literal: _check_literal,
    abc.Sequence: _check_items,
    abc.Collection: _check_items,
    abc.Iterable: _check_items,
    tuple: _check_items,
    list: _check_items,
    abc.Mapping: _check_mapping,
    dict: _check_mapping,
    abc.Callable: _check_callable,
    type: lambda value, hint: None,
}

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    type(None): "None",
    abc.Sequence: "a list",
    abc.Iterable: "several",
    abc.Collection: "several",
    abc.Callable: "a function",
    tuple: "a tuple",
    abc.Mapping: "values by name",
    np.ndarray: "a numpy array",
}


def _words(hint: Any) -> str:
    """What an annotation takes, for a message."""
    if _is_array(hint):
        return _shape_of(hint)
    if typing.get_origin(hint) is Annotated:
        kind, *more = typing.get_args(hint)
        return " ".join([_words(kind), *(str(one) for one in more if isinstance(one, Range))])
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return _NAMES.get(typing.get_origin(hint) or hint) or f"a {getattr(hint, '__name__', hint)}"


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def _is_array(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)


def _shape_of(hint: Any) -> str:
    """A jaxtyping annotation as it is written: `Float32["Q E"]`."""
    kind = hint.__name__.partition("[")[0]
    shape = f'{kind}["{hint.dim_str}"]' if hint.dim_str else f"a {kind} scalar"
    of_numpy = inspect.isclass(hint.array_type) and issubclass(hint.array_type, np.ndarray)
    return f"{shape} of numpy" if of_numpy else shape
