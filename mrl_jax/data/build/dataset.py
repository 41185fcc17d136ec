"""A built data set, read back: columns in memory, clips decoded one by one when needed."""

import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.checksums import verify_files
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.extras import require
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.encode import FULL_SCALE
from mrl_jax.data.build.info import (
    BUILD_FILE,
    INDEX_COLUMNS,
    REBUILD,
    WEIGHT,
    index_path,
    read_build,
)
from mrl_jax.data.sets.tables import open_parquet


def open_dataset(
    folder: str | Path, split: str = "train", *, verify: bool = True
) -> "SpeechDataset":
    """Open one split of a folder that `build_dataset` made.

    Args:
        folder: the data set.
        split: of it.
        verify: compare its index and its descriptions with their digests. Records carry digests
            of their own, which are compared when they are read.

    Raises:
        MrlError: no such folder, no built data set, no such split (those there are are
            named), made by another version, or damaged.
    """
    return SpeechDataset(user_path(folder), split, verify=verify)


class SpeechDataset:
    """One split: N clips and their texts, in the order of the manifest.

    Indexing may be done by several threads, and a copy in another process (pickled or
    forked) opens the files by itself.

    Attributes:
        ids: N strings.
        num_samples: [N] int64, the length of each clip.
        texts, tasks: N strings.
        transcripts, languages, speakers: N strings or None.
        document_ids: N strings; a document without an id has its text for one.
        weights: [N] float64, how often each is drawn, relative to the others; None where no weight
            was given.
        sample_rate: samples a second.
        digest: of everything that the data set was built from.
        folder, split: what was opened.
    """

    def __init__(self, folder: Path, split: str, *, verify: bool = True):
        build = read_build(folder)
        if split not in build.splits:
            problem = f"no split {split!r}; there are: {', '.join(build.splits)}"
            hint = "name one of these, or give examples this `split` in the manifest"
            raise MrlError(problem, where=folder, hint=hint)
        if verify:
            read = (index_path(folder, split).relative_to(folder).as_posix(), ".json")
            verify_files(
                folder,
                build.files,
                lambda name: name.endswith(read),
                named_by=BUILD_FILE,
                hint=REBUILD,
            )
        self.folder = folder
        self.split = split
        self.sample_rate: int = build.options.sample_rate
        self.digest: str = build.digest
        columns = _read_index(index_path(folder, split))
        self.ids: list[str] = columns["id"]
        self.num_samples: HostArray = np.asarray(columns["num_samples"], np.int64)
        self.texts: list[str] = columns["text"]
        self.tasks: list[str] = columns["task"]
        self.transcripts: list[str | None] = columns["transcript"]
        self.languages: list[str | None] = columns["language"]
        self.speakers: list[str | None] = columns["speaker"]
        self.document_ids: list[str] = [
            text if name is None else name
            for name, text in zip(columns["document_id"], self.texts, strict=True)
        ]
        self.weights = _weights_of(columns, index_path(folder, split))
        self._lock = threading.Lock()
        self._opened: tuple[int, Any] | None = None
        records, expected = len(self._records()), build.splits[split].examples
        if not len(self.ids) == records == expected:
            counts = f"{records} records and {len(self.ids)} rows in its index, expected {expected}"
            problem = f"the split {split!r} has {counts}: the data set is damaged"
            raise MrlError(problem, where=folder, hint=REBUILD)

    def __len__(self) -> int:
        return len(self.ids)

    def clip(self, index: int) -> HostArray:
        """The samples of one clip: [S] float32, multiples of 1/32768.

        Raises:
            IndexError: there is no such clip.
            MrlError: the record is damaged, or another's.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        import soundfile

        try:
            record = self._records()[index]
            samples, _ = soundfile.read(io.BytesIO(record["flac"]), dtype="int16")
            name = record["id"].decode()
        except Exception as error:  # ArrayRecord's, protobuf's, libsndfile's.
            raise self._damaged(index, first_line(error)) from error
        if name != self.ids[index] or samples.shape != (self.num_samples[index],):
            expected = f"({self.num_samples[index]},) of {self.ids[index]!r}"
            problem = f"found {samples.shape} samples of {name!r}, expected {expected}"
            raise self._damaged(index, problem)
        return samples.astype(np.float32) / np.float32(FULL_SCALE)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_opened")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
        self._opened = None

    def _damaged(self, index: int, problem: str) -> MrlError:
        problem = f"the record {index} of split {self.split!r} is damaged ({problem})"
        return MrlError(problem, where=self.folder, hint=REBUILD)

    def _records(self) -> Any:
        """TFDS's random access to the records, opened once a process."""
        opened = self._opened
        if opened is None or opened[0] != os.getpid():  # A fork's copy of open files is no good.
            with self._lock:
                if self._opened is opened:
                    self._opened = os.getpid(), self._open()
                opened = self._opened
        assert opened is not None
        return opened[1]

    def _open(self) -> Any:
        packages = ("tensorflow_datasets", "array_record")
        require(*packages, by="reading a data set", where=self.folder)
        try:
            # Not by tfds.builder_from_directory, which imports the modules that a data set's
            # features.json names.
            from mrl_jax.data.build.tfds_builder import open_records

            return open_records(self.folder, self.split)
        except Exception as error:  # ArrayRecord's and TFDS's own kinds.
            problem = f"the records of split {self.split!r} cannot be opened ({first_line(error)})"
            raise MrlError(problem, where=self.folder, hint=REBUILD) from error


def _read_index(path: Path) -> dict[str, list[Any]]:
    with open_parquet(path, hint=REBUILD) as file:
        table = file.read(columns=[*INDEX_COLUMNS, WEIGHT])  # Those that there are.
    if absent := set(INDEX_COLUMNS) - set(table.column_names):
        problem = f"the index has no column {' and no '.join(sorted(absent))}"
        raise MrlError(problem, where=path, hint=REBUILD)
    return {name: table[name].to_pylist() for name in table.column_names}


def _weights_of(columns: dict[str, list[Any]], path: Path) -> HostArray | None:
    if WEIGHT not in columns:
        return None
    weights = np.asarray(columns[WEIGHT], np.float64)
    if not ((weights > 0) & np.isfinite(weights)).all():
        raise MrlError("a weight is no number above 0", where=path, hint=REBUILD)
    return weights
