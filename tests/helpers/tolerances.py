"""Bounds that the tests of both towers share, and a cheap way to compile them."""

from typing import Any

TOLERANCE = 1e-5
"""Relative, float32: the bound for parity and for padding."""
EXACT = 1e-6
"""The same float32 computation, compiled twice."""
DIFFERS = 1e-2
"""What a case that must differ has to exceed."""
BFLOAT16_COSINE = 0.999
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
"""Half the compile time; parity itself is tested as users run it."""
