"""Options of a build, and the description of a built data set, `build.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from mrl_jax.core.errors import MrlError
from mrl_jax.core.records import as_record, read_object, readable_as
from mrl_jax.data.sets.manifest import Example
from mrl_jax.data.sets.parquet import ParquetColumns

FORMAT = 1
"""Raised whenever other records would be made of the same sources."""
BUILD_FILE = "build.json"
REBUILD = "build it again: `mrl-jax build SOURCE OUT --overwrite`"
INDEX_COLUMNS = tuple(
    "num_samples" if name.name == "audio" else name.name for name in fields(Example)
)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What is made of the recordings.

    Attributes:
        min_seconds: shorter recordings are left out.
        max_seconds: longer recordings are left out, or cut.
        long: "skip" leaves them out, "cut" keeps their beginning.
        sample_rate: samples a second of the records.
        max_broken_fraction: of the examples, how many may have a broken recording; one more
            and nothing is built.
        columns: of Parquet tables.
    """

    min_seconds: float = 0.1
    max_seconds: float = 20.0
    long: str = "skip"
    sample_rate: int = 16000
    max_broken_fraction: float = 0.01
    columns: ParquetColumns = field(default_factory=ParquetColumns)

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds < float("inf"):
            problem = f"clips from {self.min_seconds:g} to {self.max_seconds:g} seconds"
            hint = "pass a shortest length of 0 or more, and a greater longest one"
            raise MrlError(problem, where="min_seconds, max_seconds", hint=hint)
        if self.long not in ("skip", "cut"):
            raise MrlError(f"{self.long!r}, expected 'skip' or 'cut'", where="long")
        if self.sample_rate not in range(1000, 192001):
            raise MrlError(f"{self.sample_rate}, expected 1000 to 192000", where="sample_rate")
        if not 0 <= self.max_broken_fraction <= 1:
            problem = f"{self.max_broken_fraction:g}, expected 0 to 1"
            raise MrlError(problem, where="max_broken_fraction")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An example that was left out: its recording is "broken", "short" or "long"."""

    id: str
    split: str
    audio: str
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """How much there is of one split."""

    examples: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BuildInfo:
    """The description of a built data set.

    Attributes:
        digest: of the parts.
        parts: digests of the examples, their recordings, the options and the format.
        source: manifest or tables, as the user named them.
    """

    digest: str
    parts: Mapping[str, str]
    source: str
    options: BuildOptions
    splits: Mapping[str, SplitInfo]
    skipped: tuple[Skipped, ...]


def read_build(folder: Path) -> BuildInfo:
    """The description of the data set in a folder.

    Raises:
        MrlError: no such folder, no built data set, one of another format, or damaged.
    """
    path, build = folder / BUILD_FILE, "build one: `mrl-jax build SOURCE OUT`"
    if not folder.is_dir():
        raise MrlError("no such folder", where=folder, hint=build)
    if not path.exists():
        problem = f"is not a built data set: there is no {BUILD_FILE}"
        raise MrlError(problem, where=folder, hint=build)
    with readable_as("the description of a data set", path, hint=REBUILD):
        return as_record(read_object(path, version=FORMAT), BuildInfo)


def index_path(folder: Path, split: str) -> Path:
    """The table of a split: a row a record, in their order, without the audio."""
    return folder / "index" / f"{split}.parquet"
