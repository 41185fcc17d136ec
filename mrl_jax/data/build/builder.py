"""From a manifest or Parquet tables to one folder of records that training reads."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mrl_jax.core.errors import MrlError, failed_writes_as_os_errors
from mrl_jax.core.extras import require
from mrl_jax.core.files import UTF8_FOLDER, check_apart, staged_folder
from mrl_jax.core.paths import output_path, user_path
from mrl_jax.core.records import read_object
from mrl_jax.core.remote import fetch_files
from mrl_jax.core.replacement import finish_replacement
from mrl_jax.core.text import check_path_text
from mrl_jax.data.build import info
from mrl_jax.data.build.info import (
    BUILD_FILE,
    SOURCES_FILE,
    WEIGHT,
    BuildInfo,
    BuildOptions,
    Skipped,
    SplitInfo,
)
from mrl_jax.data.build.records import RecordStream
from mrl_jax.data.sets.digests import digest_files, digest_lines, load_digests, save_digests
from mrl_jax.data.sets.manifest import EmbeddedAudio, Example, read_manifest
from mrl_jax.data.sets.parquet import ParquetColumns, read_parquet
from mrl_jax.data.sets.tables import ARROW


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build made, or what was there already.

    Attributes:
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
        MrlError: the manifest or table is at fault; too many recordings are broken, the first
            few of which are named; a split has nothing left; `out` holds something else.
    """
    source, out, options = user_path(source), output_path(out), options or BuildOptions()
    workers = workers or min(16, os.cpu_count() or 1)
    check_apart(source, out)
    check_path_text(out.resolve(), hint=UTF8_FOLDER)
    finish_replacement(out)
    fetch_files((out / name for name in (BUILD_FILE, SOURCES_FILE)), renew=True)
    examples = read_examples(source, options.columns)
    digests, remembered = digest_files(
        (file for example in examples for file in _files_of(example.audio)),
        load_digests(out / SOURCES_FILE),
        workers=workers,
    )
    parts = _digest_parts(examples, digests, options)
    digest = digest_lines([parts])
    old = _any_build(out)
    if old is not None and old.get("digest") == digest:
        return _report(out, info.read_build(out), reused=True)
    if old is not None and not overwrite:
        before = old["parts"] if isinstance(old.get("parts"), dict) else {}
        changed = " and the ".join(part for part in parts if before.get(part) != parts[part])
        problem = f"is a data set that was built before the {changed} changed"
        raise MrlError(problem, where=out, hint="choose another name, or pass --overwrite")
    with staged_folder(out, marker=BUILD_FILE, overwrite=overwrite) as staging:
        splits, skipped = _build(examples, staging, options, workers)
        save_digests(staging / SOURCES_FILE, remembered)
        made = BuildInfo(
            digest=digest,
            parts=parts,
            source=str(source),
            options=options,
            splits=splits,
            skipped=skipped,
        )
        made = info.describe_build(staging, made)
    return _report(out, made, reused=False)


def read_examples(source: Path, columns: ParquetColumns) -> list[Example]:
    """The examples of a manifest, or of Parquet tables."""
    if source.is_dir() or source.suffix in ARROW:
        return read_parquet(source, columns)
    return read_manifest(source)


def _digest_parts(
    examples: list[Example], digests: Mapping[Path, str], options: BuildOptions
) -> dict[str, str]:
    def recording(audio: Path | EmbeddedAudio) -> list[object]:
        if isinstance(audio, Path):
            return [digests[audio]]
        return [digests[audio.file], audio.row, *map(digests.__getitem__, _files_of(audio)[1:])]

    # Without paths: a data set that moved is the same data set.
    return {
        "examples": digest_lines(map(_fields_of, examples)),
        "recordings": digest_lines(recording(example.audio) for example in examples),
        "options": digest_lines([asdict(options)]),
        "format": str(info.FORMAT),
    }


def _fields_of(example: Example) -> dict[str, Any]:
    """What the digest of an example is made of; a weight of 1 is none, as before there were any."""
    fields = {**vars(example), "audio": None}
    return fields if example.weight != 1 else {k: v for k, v in fields.items() if k != WEIGHT}


def _files_of(audio: Path | EmbeddedAudio) -> list[Path]:
    """The file of a recording, or its table and the file that the table may name instead."""
    if isinstance(audio, Path):
        return [audio]
    return [audio.file, *([audio.path] if audio.path and audio.path.is_file() else [])]


def _any_build(out: Path) -> dict[str, Any] | None:
    """What is in a `build.json` of any format; None where there is none that can be read."""
    try:
        return read_object(out / BUILD_FILE)
    except (OSError, ValueError, MrlError):
        return None


def _report(out: Path, made: BuildInfo, *, reused: bool) -> BuildReport:
    return BuildReport(
        out=out,
        digest=made.digest,
        reused=reused,
        examples={name: split.examples for name, split in made.splits.items()},
        seconds={name: split.seconds for name, split in made.splits.items()},
        skipped=made.skipped,
    )


def _build(
    examples: list[Example], staging: Path, options: BuildOptions, workers: int
) -> tuple[dict[str, SplitInfo], tuple[Skipped, ...]]:
    """Write records and indices; what there is of each split, and what was left out."""
    require("pyarrow", "tensorflow_datasets", "array_record", by="building a data set")
    import pyarrow
    import tensorflow_datasets as tfds
    from pyarrow import parquet

    from mrl_jax.data.build.tfds_builder import SpeechDataBuilder

    splits: dict[str, list[Example]] = {}
    for example in examples:
        splits.setdefault(example.split, []).append(example)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(examples), desc="decoding", unit=" clips", disable=None) as bar,
    ):
        stream = RecordStream(
            pool, options, total=len(examples), ahead=4 * workers, progress=bar.update
        )
        clips = {split: stream.records(split, rows) for split, rows in splits.items()}
        builder = SpeechDataBuilder(clips=clips, data_dir=staging)
        with _quiet(tfds), failed_writes_as_os_errors():
            builder.download_and_prepare()
    stream.check_broken()
    info.index_path(staging, "").parent.mkdir()
    types = dict.fromkeys(info.INDEX_COLUMNS, pyarrow.string()) | {"num_samples": pyarrow.int64()}
    totals: dict[str, SplitInfo] = {}
    for split in splits:
        rows = stream.index[split]
        weighted = any(row[WEIGHT] != 1 for row in rows)
        own = types | {WEIGHT: pyarrow.float64()} if weighted else types
        table = pyarrow.Table.from_pylist(rows, pyarrow.schema(own))
        parquet.write_table(table, info.index_path(staging, split))
        samples = sum(row["num_samples"] for row in rows)
        totals[split] = SplitInfo(examples=len(rows), seconds=samples / options.sample_rate)
    return totals, tuple(stream.skipped)


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """Without TFDS's own progress bars and messages about downloads."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
