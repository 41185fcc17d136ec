"""Clips that are the same recording twice, under whatever name or encoding."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.checksums import file_digest
from mrl_jax.curation.audio import audio_blocks, load_audio
from mrl_jax.curation.fingerprint import (
    RATE,
    Fingerprint,
    FingerprintConfig,
    FingerprintIndex,
    fingerprint,
)
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.data.audio.encode import quantize

Sameness = Literal["samples", "files", "none"]
"""Equal samples of 16 bits, equal bytes of a file, or not compared."""
_RATE = 16_000
"""At which samples are compared where nobody measured the recording's own."""
_LONG = 600.0
"""Seconds of a recording that are decoded at once."""
_BEGINNING = 0.2
"""Seconds of each clip that are decoded first."""


def clip_digests(rows: Sequence[Row], by: Sameness) -> list[str | None]:
    """Of each row a text that is the same for the same clip; None where it has none like it.

    A recording that cannot be read is like no other. Whole clips are decoded only where another
    one begins alike.
    """
    if by == "none":
        return [None] * len(rows)
    if by == "files":
        return _of_files(rows)
    starts = _repeated(rows, _of_beginning, range(len(rows)))
    wholes = _repeated(rows, _of_samples, starts)
    return [wholes.get(place) for place in range(len(rows))]


def _repeated(
    rows: Sequence[Row], digest: Callable[[Row], str | None], places: Iterable[int]
) -> dict[int, str]:
    """Of the rows at some places the digests that another one has as well, by place."""
    chosen = [place for place in places if rows[place].audio is not None]
    bar = tqdm(chosen, desc="compare clips", unit="clip", disable=not chosen)
    found = {place: value for place in bar if (value := digest(rows[place])) is not None}
    counts = Counter(found.values())
    return {place: value for place, value in found.items() if counts[value] > 1}


def overlaps(first: Row, second: Row) -> bool:
    """Whether two clips share a part of one recording."""
    ends = [float("inf") if row.end is None else row.end for row in (first, second)]
    return first.start < ends[1] and second.start < ends[0]


def by_recording(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the resolved path of their recording; links to one file are one."""
    result: dict[str, list[Row]] = {}
    for row in rows:
        if row.audio is not None:
            result.setdefault(str(Path(row.audio).resolve()), []).append(row)
    return result


def _of_beginning(row: Row) -> str:
    end = row.start + _BEGINNING
    if row.end is None or row.end > end:
        row = dataclasses.replace(row, end=end)
    return _of_samples(row) or "silent, or cannot be read"  # The whole clip may well be fine.


def _of_samples(row: Row) -> str | None:
    rate = int(row.measured.get("source.rate", _RATE))
    total = hashlib.sha256()
    try:
        for block in _blocks(row, rate):
            total.update(quantize(block).tobytes())
    except BrokenRow:
        return None
    total.update(str(rate).encode())
    return total.hexdigest()


def _blocks(row: Row, rate: int) -> Iterable[HostArray]:
    """The samples of a clip; hours of a recording are never held at once."""
    if row.seconds is not None and row.seconds > _LONG:
        return audio_blocks(row, rate, _LONG)
    return (load_audio(row, rate),)


def sound_copies(
    held_out: Sequence[Row], others: Sequence[Row], config: FingerprintConfig
) -> dict[str, Row]:
    """The held-out row that another row has the sound of, by the other's id.

    Held-out fingerprints are held, 1.5 KB a second; those of the others one at a time. A clip that
    cannot be read is like no other.
    """
    result: dict[str, Row] = {}
    known = [row for row in held_out if row.audio is not None]
    chosen = [row for row in others if row.audio is not None]
    if not known or not chosen:
        return result
    bar = tqdm(known, desc="fingerprint held-out clips", unit="clip")
    index = FingerprintIndex([_print_of(row) for row in bar], config)
    for row in tqdm(chosen, desc="compare sounds", unit="clip"):
        if (match := index.find(_print_of(row))) is not None:
            result[row.id] = known[match.clip]
    return result


def _print_of(row: Row) -> Fingerprint:
    try:
        clip = np.concatenate(list(_blocks(row, RATE)))  # An hour takes 72 MB at this rate.
    except BrokenRow:
        clip = np.zeros(0, np.float32)
    return fingerprint(clip)


def _of_files(rows: Sequence[Row]) -> list[str | None]:
    """Bytes of the file and the clip's place in it; each file is read once."""

    def each() -> Iterator[str | None]:
        known: dict[str, str | None] = {}
        for row in rows:
            if row.audio is None:
                yield None
                continue
            if row.audio not in known:
                path = Path(row.audio)
                known[row.audio] = file_digest(path) if path.is_file() else None
            digest = known[row.audio]
            yield None if digest is None else f"{digest} {row.start} {row.end}"

    return list(each())
