"""The first stage of every run: whether each recording can be read, its length, rate and digest."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.checksums import file_digest
from mrl_jax.core.errors import MrlError, describe_os_error
from mrl_jax.core.extras import require
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import BrokenRow, RowStage, StageConfig
from mrl_jax.data.audio.decode import clip_header, load_clip

LONGEST_CHECKED = 600.0
"""Seconds of a recording that is decoded to its end; of longer ones the header is believed here,
and what cuts them will find where they break off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig(StageConfig):
    """The stage has no choices.

    Attributes:
        files: digest of the names, sizes and times of all recordings.
    """

    name: str = "source"
    files: str = ""


class Probe(RowStage):
    """Measures recordings, and drops the broken ones."""

    measures = ("source.seconds", "source.rate", "source.digest")

    def __init__(self, config: ProbeConfig):
        self.name = config.name

    def apply(self, row: Row) -> Sequence[Row]:
        if row.audio is None:
            return [row]
        require("librosa", "soundfile", by="reading audio")
        path = Path(row.audio)
        try:
            seconds, rate = clip_header(path, name=path)
            if seconds <= LONGEST_CHECKED or math.isinf(seconds):
                seconds = load_clip(path, rate).size / rate
            digest = file_digest(path)
        except MrlError as error:
            raise BrokenRow(error.problem, where=path) from error
        except OSError as error:
            raise BrokenRow(f"cannot be read: {describe_os_error(error)}", where=path) from error
        return [row.with_measured(self.name, seconds=seconds, rate=rate, digest=digest[:16])]
