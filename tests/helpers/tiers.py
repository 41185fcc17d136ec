"""What `make test` runs, and what only `make test-all` does."""

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], quick: int = 1) -> list[Any]:
    """Parameters of a test of which `make test` runs the first ``quick`` ones alone."""

    def slow(value: Any) -> Any:
        values = value if isinstance(value, tuple) else (value,)
        return pytest.param(*values, marks=pytest.mark.slow)

    return [value if place < quick else slow(value) for place, value in enumerate(values)]
