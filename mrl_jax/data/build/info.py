"""Options of a build, and the description of a built data set, `build.json`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from mrl_jax.core.checksums import folder_digests
from mrl_jax.core.errors import MrlError
from mrl_jax.core.records import read_record, write_description
from mrl_jax.data.sets.manifest import Example
from mrl_jax.data.sets.parquet import ParquetColumns

FORMAT = 1
"""Raised whenever other records would be made of the same sources."""
BUILD_FILE = "build.json"
SOURCES_FILE = "sources.jsonl"
"""What was known of the recordings, which only the next build reads."""
REBUILD = "build it again: `mrl-jax build SOURCE OUT --overwrite`"
INDEX_COLUMNS = tuple(
    f.name if f.name != "audio" else "num_samples" for f in fields(Example) if f.name != "weight"
)
WEIGHT = "weight"
"""One more column of the index, where some example's is not 1."""


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
        files: SHA-256 of the other files of the folder, by relative name; none in older ones.
    """

    digest: str
    parts: Mapping[str, str]
    source: str
    options: BuildOptions
    splits: Mapping[str, SplitInfo]
    skipped: tuple[Skipped, ...]
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, split in self.splits.items():
            if name in ("", "..") or Path(name).name != name:
                raise ValueError(f"{name!r} is no name of a split")
            if split.examples < 1:
                raise ValueError(f"the split {name!r} has {split.examples} examples")


def read_build(folder: Path, *, sealed: bool = True) -> BuildInfo:
    """The description of the data set in a folder.

    One that was edited since it was written is refused, if it is to be `sealed`.

    Raises:
        MrlError: no such folder, no built data set, one of another format, or damaged.
    """
    path, build = folder / BUILD_FILE, "build one: `mrl-jax build SOURCE OUT`"
    if not folder.is_dir():
        raise MrlError("no such folder", where=folder, hint=build)
    if not path.exists():
        problem = f"is not a built data set: there is no {BUILD_FILE}"
        raise MrlError(problem, where=folder, hint=build)
    what = "the description of a data set"
    options = {"version": FORMAT, "what": what, "hint": REBUILD, "sealed": sealed}
    return read_record(path, BuildInfo, **options)


def describe_build(folder: Path, info: BuildInfo) -> BuildInfo:
    """Write build.json, with the digests of the files that are in `folder`."""
    names = (BUILD_FILE, SOURCES_FILE)
    made = replace(info, files=folder_digests(folder, lambda name: name not in names))
    write_description(folder / BUILD_FILE, asdict(made), version=FORMAT)
    return made


def index_path(folder: Path, split: str) -> Path:
    """The table of a split: a row a record, in their order, without the audio."""
    return folder / "index" / f"{split}.parquet"
