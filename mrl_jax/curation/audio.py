"""The samples of a row's clip."""

import math
from collections.abc import Iterator
from pathlib import Path

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.data.audio.decode import load_clip


def load_audio(row: Row, rate: int) -> HostArray:
    """Decode a row's clip, mono, at `rate` samples a second; of a recording no more than the clip.

    Returns:
        [S] float32, from -1 to 1.

    Raises:
        BrokenRow: the row has no recording, or a broken one; see `load_clip`.
        MrlError: soundfile or librosa is not installed.
    """
    require("librosa", "soundfile", by="reading audio")
    if row.audio is None:
        raise BrokenRow("has no recording", where=f"row {row.id!r}")
    length = None if row.end is None else row.end - row.start
    try:
        return load_clip(Path(row.audio), rate, start_seconds=row.start, max_seconds=length)
    except MrlError as error:
        raise BrokenRow(error.problem, where=error.where, hint=error.hint) from error


def audio_blocks(row: Row, rate: int, seconds: float = 600.0) -> Iterator[HostArray]:
    """`load_audio` of a clip that may be hours long, in parts of so many seconds, in order."""
    require("librosa", "soundfile", by="reading audio")
    length = row.seconds
    if row.audio is None or length is None:
        raise BrokenRow("has no recording of a known length", where=f"row {row.id!r}")
    for number in range(max(math.ceil(length / seconds - 1e-6), 1)):
        start = row.start + number * seconds
        most = min(seconds, row.start + length - start)
        try:
            yield load_clip(
                Path(row.audio), rate, start_seconds=start, max_seconds=most, allow_silence=True
            )
        except MrlError as error:
            raise BrokenRow(error.problem, where=error.where, hint=error.hint) from error
