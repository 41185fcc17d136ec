"""Ranges of the numbers in a config, checked where it is built."""

import math
from typing import Any

from mrl_jax.core.errors import ArgumentError

LARGEST = (1 << 31) - 1
"""Of a size: what the indices of arrays hold."""


def check_sizes(config: Any, *names: str, least: int = 1, most: int = LARGEST) -> None:
    """Refuse fields that are none of `least` to `most`; each is a number, or several.

    Raises:
        ArgumentError: naming the first that is not.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not least <= number <= most:
                raise ArgumentError(f"{name} is {value}, expected {least} to {most:,}")


def check_positive(config: Any, *names: str) -> None:
    """Refuse fields that are no finite numbers above 0.

    Raises:
        ArgumentError: naming the first that is not.
    """
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ArgumentError(f"{name} is {value}, expected a number above 0")
