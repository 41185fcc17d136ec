"""Vectors of many rows' clips, a bounded number of them in memory at a time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.curation.audio import load_audio
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import BrokenRow

AT_ONCE = 30 * 60
"""Seconds of clips that are held, or one clip."""


@dataclasses.dataclass(frozen=True)
class ClipTable:
    """Vectors of the clips that could be read.

    Attributes:
        places: of the rows that have a vector.
        vectors: of these rows.
        broken: place of every other row: why it has none.
    """

    places: tuple[int, ...]
    vectors: Float32[HostArray, "N W"]
    broken: Mapping[int, str]


def embed_rows(
    rows: Sequence[Row],
    embed: Callable[[list[HostArray]], HostArray],
    *,
    rate: int,
    min_samples: int,
    max_seconds: float,
    progress: str | None = None,
) -> ClipTable:
    """Embed the clip of every row.

    Args:
        rows: each with a recording.
        embed: clips [S] to vectors [N, W].
        rate: samples a second that `embed` takes.
        min_samples, max_seconds: shorter and longer clips have no vector.
        progress: name of a progress bar.
    """
    broken: dict[int, str] = {}
    places: list[int] = []
    parts: list[HostArray] = []
    waiting: list[HostArray] = []

    def flush() -> None:
        if waiting:
            parts.append(np.asarray(embed(waiting), np.float32))
            waiting.clear()

    limits = f"{min_samples / rate:.2f} to {max_seconds:g} s"
    for place, row in enumerate(tqdm(rows, desc=progress, disable=progress is None, leave=False)):
        if (seconds := row.seconds or 0.0) > max_seconds:  # One of hours is not even decoded.
            broken[place] = f"the clip is {seconds:.2f} s long, expected {limits}"
            continue
        try:
            clip = load_audio(row, rate)
        except BrokenRow as error:
            broken[place] = error.problem
            continue
        if not min_samples <= len(clip) <= max_seconds * rate:
            broken[place] = f"the clip is {len(clip) / rate:.2f} s long, expected {limits}"
            continue
        if sum(map(len, waiting)) + len(clip) > AT_ONCE * rate:
            flush()
        waiting.append(clip)
        places.append(place)
    flush()
    vectors = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    return ClipTable(tuple(places), vectors, broken)
