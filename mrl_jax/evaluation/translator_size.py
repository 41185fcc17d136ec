"""How many weights a folder of CTranslate2's holds, read from the head of its tensors.

CTranslate2 has no call for it. Its file lists variables (name, shape, type, bytes), then
aliases of tied ones; this was read off what its converter writes, in format 6.
"""

import math
import struct
from pathlib import Path

from mrl_jax.evaluation.translate import MODEL

FORMAT = 6


def count_parameters(folder: Path) -> float:
    """Weights of a translator, tied ones once; NaN where the file is of another format.

    Left out, as they are no weights: settings, positions, and the scales of quantised ones.
    """
    path = folder / MODEL
    size, total = path.stat().st_size, 0

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
                if rank and not called.endswith("_scale") and "position_encodings" not in called:
                    total += math.prod(shape)
            for _ in range(numbers("I")[0]):
                for _ in ("alias", "variable"):
                    name()
            return float(total) if file.tell() == size else math.nan
    except (struct.error, UnicodeDecodeError):
        return math.nan
