"""JSON that somebody else wrote, read with one kind of error for all that may be wrong with it."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

MAX_DIGITS = 308
"""Digits of a whole number: with more it is no float either."""


def parse_json(text: str | bytes, *, on_repeated_key: Callable[[str], None] | None = None) -> Any:
    """The value of a JSON text; bytes are UTF-8.

    Args:
        text: one JSON value.
        on_repeated_key: called with each key that an object has twice; its last value counts.

    Raises:
        ValueError: not UTF-8 (a `UnicodeDecodeError`), not JSON, nested too deeply, or a whole
            number of more than `MAX_DIGITS` digits.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")

    def row_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs) and on_repeated_key is not None:
            for name, count in Counter(name for name, _ in pairs).items():
                if count > 1:
                    on_repeated_key(name)
        return row

    hook = None if on_repeated_key is None else row_of
    try:
        return json.loads(text, parse_int=_whole_number, object_pairs_hook=hook)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _whole_number(digits: str) -> int:
    if (count := len(digits.lstrip("-"))) > MAX_DIGITS:
        raise ValueError(f"a number of {count} digits is too large")
    return int(digits)
