"""JSON of any origin: values, or one kind of error."""

import json

import pytest

from mrl_jax.core.json_text import MAX_DIGITS, parse_json


@pytest.mark.parametrize(
    "text",
    ['{"a": [1, 2.5, null, "é"]}', "[" * 50 + "]" * 50, f"-{'9' * MAX_DIGITS}", '"x"', "1e400"],
)
def test_what_json_reads_is_read_the_same(text):
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * (MAX_DIGITS + 1), "309 digits is too large"),
        (f"-{'9' * 5000}", "5000 digits is too large"),
        (b"\xff\xfe", "utf-8"),
        ("", "Expecting value"),
        ("\ufeff1", "BOM"),
        ("1 2", "Extra data"),
    ],
)
def test_everything_else_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_keys_that_are_there_twice_are_named_once_each():
    text = '{"a": 1, "b": 2, "a": 3, "a": 4, "c": {"d": 1, "d": 2}}'
    named: list[str] = []
    row = parse_json(text, on_repeated_key=named.append)
    assert row == json.loads(text) == {"a": 4, "b": 2, "c": {"d": 2}}
    assert named == ["d", "a"]
    assert parse_json('{"a": 1, "b": {"a": 2}}', on_repeated_key=named.append)["a"] == 1
    assert named == ["d", "a"]
