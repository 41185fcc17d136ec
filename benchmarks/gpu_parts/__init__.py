"""The parts of benchmarks/gpu.py; each yields (name, figures) as they are measured."""

import re
from collections.abc import Callable, Iterator
from typing import Any

Figures = Iterator[tuple[str, dict[str, Any]]]
PEAK = 989e12
"""FLOP/s of an H100 or H200 (SXM) in bfloat16, dense, as published."""


def attempt(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` gives, or in one line why it cannot."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:400]}


def card(device: str) -> str:
    """The model in a device's name: "h100" of "NVIDIA H100 80GB HBM3"."""
    words = device.lower().removeprefix("nvidia ").split()
    return re.sub(r"[^a-z0-9]+", "_", words[0]) if words else "unknown"
