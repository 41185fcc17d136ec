"""`checked`: wrong arguments are refused by name; and every documented function is checked."""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike
from jaxtyping import Float32
from repository import ROOT

from mrl_jax.core.arguments import CHECKED, Fraction, PositiveInt, checked, mismatch
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError


@checked
def called(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: PositiveInt = 1,
    **options: Any,
) -> int:
    return len(queries) * k


QUERIES, DOCUMENTS = np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)


def test_right_arguments_pass():
    assert called(QUERIES, documents=DOCUMENTS, k=cast(int, np.int64(3)), other=None) == 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": 0}, "called: k is 0, expected 1 or more"),
        ({"k": 2.0}, "k is 2.0, expected a whole number"),
        ({"k": True}, "k is True, expected a whole number"),
        ({"queries": None}, "queries is None, expected"),
        ({"queries": QUERIES.astype(np.float64)}, r"queries is float64 of shape \(2, 4\)"),
        ({"documents": jnp.asarray(DOCUMENTS)}, "a JAX array"),
    ],
)
def test_wrong_ones_are_named(changed, message):
    arguments = {"queries": QUERIES, "documents": DOCUMENTS, **changed}
    with pytest.raises(MrlError, match=message) as raised:
        called(**arguments)
    assert isinstance(raised.value, ArgumentError | ValueError)


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (float, [0.5, 1, np.float32(2)], [float("nan"), "1", None, True, 10**400]),
        (Fraction, [0.0, 1.0], [-0.1, 1.5]),
        (str, ["", "é"], [None, 1, "\ud800", "\0", b"x"]),
        (str | Path, ["a", Path("b"), "\udce9"], [3, "\0", None]),
        (Sequence[str], [[], ["a"], ("a",)], ["a", ["a", None], [1], {"a"}]),
        (Mapping[str, float], [{}, {"a": 1.0}], [[], {"a": "b"}, {1: 1.0}]),
        (tuple[int, ...] | None, [(), (1,), None], [[1], (1.0,), (True,)]),
        (tuple[str, int], [("a", 1)], [("a",), ("a", "b")]),
        (Literal["a", "b"], ["a"], ["c", None, []]),
        (bool, [True, np.bool_(False)], [0, 1, None, "true"]),
        (DTypeLike | None, [None, "float32", np.float32, jnp.bfloat16], ["x", 3, float("nan")]),
        (Callable[[], Any], [len], [3]),
        (np.random.Generator, [np.random.default_rng(0)], [0]),
    ],
)
def test_annotations(hint, right, wrong):
    assert [mismatch(value, hint) for value in right] == [None] * len(right)
    assert None not in [mismatch(value, hint) for value in wrong]


def test_a_missing_argument_is_pythons_own_error():
    with pytest.raises(TypeError, match="missing"):
        called(QUERIES)  # pyright: ignore[reportCallIssue]


def public_functions() -> list[str]:
    """`module.name` of every function of the pages of the API with an argument."""
    pages = "".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))
    names = []
    for module in sorted(set(re.findall(r"^::: (mrl_jax\.(?:inference|metrics)\S*)", pages, re.M))):
        if module.endswith(("Embedder", "FirstText")):
            continue
        for name, value in vars(importlib.import_module(module)).items():
            own = inspect.isfunction(value) and value.__module__ == module
            if own and name[0] != "_" and inspect.signature(value).parameters:
                names.append(f"{module}.{name}")
    return names


UNCHECKED = {"check_k", "check_finite", "discounts", "text_keys"}
UNCHECKED |= {"write_info", "read_info", "reference_to", "relative_to"}
UNCHECKED |= {"check_embedder", "load_referenced"}
"""Parts of others: what they are given has been checked."""


def test_functions_of_search_and_metrics_are_checked():
    names = public_functions()
    assert len(names) > 30
    for name in names:
        module, _, function = name.rpartition(".")
        value = getattr(importlib.import_module(module), function)
        assert function in UNCHECKED or getattr(value, CHECKED, False), name
