"""What `make test` runs, and what only `make test-all` does."""

from collections.abc import Iterable

import pytest


def mostly_slow(values: Iterable[object], quick: int = 1) -> list:
    """Parameters of a test of which `make test` runs the first ``quick`` ones alone."""
    return [
        value if place < quick else pytest.param(value, marks=pytest.mark.slow)
        for place, value in enumerate(values)
    ]
