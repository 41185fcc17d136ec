"""How many weights a folder of CTranslate2's holds, read from the head of its tensors.

CTranslate2 has no call for it. Its file lists variables (name, shape, type, bytes), then
aliases of equal ones; this was read off what its converter writes, in format 6.
"""

import math
import struct
from pathlib import Path

from mrl_jax.evaluation.translate import MODEL

FORMAT = 6
TIED = ("/embeddings", "/projection/")
"""Aliases that share weights; others are of weights that happen to be equal, zero biases say."""


def count_parameters(folder: Path) -> float:
    """Weights of a translator, tied ones once; NaN where the file is of another format.

    Left out, as they are no weights: settings, positions, and the scales of quantised ones.
    """
    path = folder / MODEL
    size, counts = path.stat().st_size, dict[str, int]()

    def numbers(layout: str) -> tuple[int, ...]:
        data = file.read(struct.calcsize(f"<{layout}"))
        return struct.unpack(f"<{layout}", data)

    def name() -> str:
        (length,) = numbers("H")
        return file.read(length)[:-1].decode("utf-8")  # A zero byte closes it.

    try:
        with path.open("rb") as file:
            if numbers("I") != (FORMAT,):
                return math.nan
            name()
            _, variables = numbers("II")
            for _ in range(variables):
                called, (rank,) = name(), numbers("B")
                shape = numbers(f"{rank}I")
                _, held = numbers("BI")
                file.seek(held, 1)
                weight = rank and not called.endswith("_scale")
                weight = weight and "position_encodings" not in called
                counts[called] = math.prod(shape) if weight else 0
            for _ in range(numbers("I")[0]):
                called, equal = name(), name()
                counts[called] = 0 if any(part in called for part in TIED) else counts[equal]
            return float(sum(counts.values())) if file.tell() == size else math.nan
    except (struct.error, UnicodeDecodeError, KeyError):
        return math.nan
