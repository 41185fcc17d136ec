"""Dataclasses from JSON files, and what a damaged one says."""

import dataclasses
import json
from collections.abc import Mapping

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.core.records import as_record, read_object, readable_as


@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...]
    rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    on: bool = False
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dtype: str | None = None


GOOD = {"format": 1, "name": "a", "inner": {"sizes": [1, 2], "rate": 2}, "scores": {"x": 1}}


def read(path):
    with readable_as("a test", path, hint="write it again"):
        return as_record(read_object(path, version=1), Outer)


def test_a_whole_file_becomes_the_dataclass(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    record = read(tmp_path / "a.json")
    assert record == Outer("a", Inner((1, 2), 2.0), scores={"x": 1.0})
    assert isinstance(record.inner.sizes, tuple)
    assert isinstance(record.inner.rate, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "not a JSON object"),
        (json.dumps({**GOOD, "format": 2}), "the format is not 1"),
        (json.dumps({**GOOD, "more": 1}), "unknown fields: more"),
        (json.dumps({"format": 1, "name": "a"}), "the field 'inner' is missing"),
        (json.dumps({**GOOD, "name": 3}), "3 is no str"),
        (json.dumps({**GOOD, "on": 1}), "1 is no bool"),
        (json.dumps({**GOOD, "inner": {"sizes": ["1"]}}), "'1' is no int"),
        (json.dumps({**GOOD, "inner": {"sizes": [True]}}), "True is no int"),
        (json.dumps({**GOOD, "inner": 3}), "cannot be read as a test"),
        (json.dumps({**GOOD, "dtype": 3}), "cannot be read as a test"),
        (json.dumps({**GOOD, "scores": {"x": "1"}}), "'1' is no float"),
    ],
)
def test_a_damaged_file_is_one_line(text, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(MrlError, match="Write it again") as raised:
        read(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(MrlError, match="cannot be read as a test"):
        read(tmp_path / "a.json")
