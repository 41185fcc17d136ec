"""From a manifest or Parquet tables to one folder of records that training reads."""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart, staged_folder
from mrl_jax.data.build.records import RecordStream, Skipped
from mrl_jax.data.sets.digests import digest_files, digest_lines, load_digests, save_digests
from mrl_jax.data.sets.manifest import EmbeddedAudio, Example, read_manifest
from mrl_jax.data.sets.parquet import ParquetColumns, read_parquet

FORMAT = 1
"""Raised whenever other records would be made of the same sources."""


BUILD_FILE = "build.json"


SOURCES_FILE = "sources.jsonl"


INDEX_COLUMNS = (
    "id",
    "num_samples",
    "text",
    "task",
    "transcript",
    "language",
    "speaker",
    "document_id",
    "split",
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
            raise MrlError(
                f"clips from {self.min_seconds:g} to {self.max_seconds:g} seconds",
                where="min_seconds, max_seconds",
                hint="pass a shortest length of 0 or more, and a greater longest one",
            )
        if self.long not in ("skip", "cut"):
            raise MrlError(f"{self.long!r}, expected 'skip' or 'cut'", where="long")
        if self.sample_rate not in range(1000, 192001):
            raise MrlError(f"{self.sample_rate}, expected 1000 to 192000", where="sample_rate")
        if not 0 <= self.max_broken_fraction <= 1:
            raise MrlError(
                f"{self.max_broken_fraction:g}, expected 0 to 1", where="max_broken_fraction"
            )


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build made, or found made.

    Attributes:
        out: the folder.
        digest: of the examples, their recordings' bytes, the options and the format.
        reused: nothing had changed, and nothing was done.
        examples: in each split, those in the records.
        seconds: of audio in each split.
        skipped: what was left out, and why.
    """

    out: Path
    digest: str
    reused: bool
    examples: dict[str, int]
    seconds: dict[str, float]
    skipped: tuple[Skipped, ...]


def build_dataset(
    source: str | Path,
    out: str | Path,
    *,
    options: BuildOptions | None = None,
    overwrite: bool = False,
    workers: int | None = None,
) -> BuildReport:
    """Decode every recording once, and write a folder for `open_dataset`.

    The folder appears whole or not at all. Where it is there already, made of the same
    examples, recordings and options, nothing is done. Files whose size and time of change
    are as they were are taken to be the same without being read.

    Args:
        source: a manifest, a Parquet file, or a folder of them.
        out: the folder to make.
        options: what is made of the recordings.
        overwrite: replace a data set of other contents.
        workers: threads that decode; the records do not depend on it.

    Raises:
        MrlError: the manifest or table is at fault; too many recordings are broken, told
            with the first few; a split has nothing left; `out` holds something else.
    """
    source, out, options = Path(source), Path(out), options or BuildOptions()
    workers = workers or min(16, os.cpu_count() or 1)
    check_apart(source, out)
    examples = read_examples(source, options.columns)
    digests, remembered = digest_files(
        (e.audio.file if isinstance(e.audio, EmbeddedAudio) else e.audio for e in examples),
        load_digests(out / SOURCES_FILE),
        workers=workers,
    )
    parts = _digest_parts(examples, digests, options)
    digest = digest_lines([parts])
    old = _read_build(out)
    if old is not None and old.get("digest") == digest:
        return _report(out, old, reused=True)
    if old is not None and not overwrite:
        before = old.get("parts", {})
        changed = " and the ".join(part for part in parts if before.get(part) != parts[part])
        raise MrlError(
            f"is a data set that was built before the {changed} changed",
            where=out,
            hint="choose another name, or pass --overwrite",
        )
    with staged_folder(out, marker=BUILD_FILE, overwrite=overwrite) as staging:
        build = _build(examples, staging, options, workers)
        save_digests(staging / SOURCES_FILE, remembered)
        build = {
            "format": FORMAT,
            "digest": digest,
            "parts": parts,
            "source": str(source),
            "options": asdict(options),
        } | build
        (staging / BUILD_FILE).write_text(
            json.dumps(build, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return _report(out, build, reused=False)


def read_examples(source: Path, columns: ParquetColumns) -> list[Example]:
    """The examples of a manifest, or of Parquet tables."""
    if source.is_dir() or source.suffix == ".parquet":
        return read_parquet(source, columns)
    return read_manifest(source)


def index_path(folder: Path, split: str) -> Path:
    """The table of a split: a row a record, in their order, without the audio."""
    return folder / "index" / f"{split}.parquet"


def _digest_parts(
    examples: list[Example], digests: Mapping[Path, str], options: BuildOptions
) -> dict[str, str]:
    def recording(audio: Path | EmbeddedAudio) -> list[object]:
        embedded = isinstance(audio, EmbeddedAudio)
        return [digests[audio.file], audio.row] if embedded else [digests[audio]]

    # Without paths: a data set that moved is the same data set.
    return {
        "examples": digest_lines({**vars(example), "audio": None} for example in examples),
        "recordings": digest_lines(recording(example.audio) for example in examples),
        "options": digest_lines([asdict(options)]),
        "format": str(FORMAT),
    }


def _read_build(out: Path) -> dict[str, Any] | None:
    try:
        build = json.loads((out / BUILD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return build if isinstance(build, dict) else None


def _report(out: Path, build: dict[str, Any], *, reused: bool) -> BuildReport:
    splits = build["splits"]
    return BuildReport(
        out=out,
        digest=build["digest"],
        reused=reused,
        examples={name: split["examples"] for name, split in splits.items()},
        seconds={name: split["seconds"] for name, split in splits.items()},
        skipped=tuple(Skipped(**row) for row in build["skipped"]),
    )


def _build(
    examples: list[Example], staging: Path, options: BuildOptions, workers: int
) -> dict[str, Any]:
    """Write records and indices; returns what `build.json` says of them."""
    try:
        import pyarrow
        import tensorflow_datasets as tfds
        from pyarrow import parquet

        from mrl_jax.data.build.tfds_builder import SpeechDataBuilder
    except ImportError as error:
        raise MrlError(
            f"building a data set takes {error.name}, which is not installed",
            hint="install the extra: `pip install 'mrl_jax[train]'`",
        ) from error
    splits: dict[str, list[Example]] = {}
    for example in examples:
        splits.setdefault(example.split, []).append(example)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(examples), desc="decoding", unit=" clips", disable=None) as bar,
    ):
        stream = RecordStream(
            pool,
            ahead=4 * workers,
            min_seconds=options.min_seconds,
            max_seconds=options.max_seconds,
            cut=options.long == "cut",
            sample_rate=options.sample_rate,
            max_broken=int(options.max_broken_fraction * len(examples)),
            total=len(examples),
            column=options.columns.audio,
            progress=bar.update,
        )
        builder = SpeechDataBuilder(
            clips={split: stream.records(split, rows) for split, rows in splits.items()},
            data_dir=staging,
        )
        with _quiet(tfds):
            builder.download_and_prepare()
    stream.check_broken()
    index_path(staging, "").parent.mkdir()
    schema = dict.fromkeys(INDEX_COLUMNS, pyarrow.string()) | {"num_samples": pyarrow.int64()}
    totals = {}
    for split in splits:
        rows = stream.index[split]
        parquet.write_table(
            pyarrow.Table.from_pylist(rows, pyarrow.schema(schema)), index_path(staging, split)
        )
        samples = sum(row["num_samples"] for row in rows)
        totals[split] = {"examples": len(rows), "seconds": samples / options.sample_rate}
    return {"splits": totals, "skipped": [asdict(skipped) for skipped in stream.skipped]}


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """Without TFDS's own bars and its talk of downloading."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
