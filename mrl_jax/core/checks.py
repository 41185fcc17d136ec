"""What an annotation cannot say of the numbers in a config, checked where it is built."""

import math
from typing import Any

from mrl_jax.core.errors import ArgumentError


def check_positive(config: Any, *names: str) -> None:
    """Refuse fields that are no finite numbers above 0.

    Raises:
        ArgumentError: naming the first that is not.
    """
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ArgumentError(f"{name} is {value}, expected a number above 0")
