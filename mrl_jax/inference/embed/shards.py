"""The output folder of an embedded corpus: one file a shard, and what they are of.

_embed.json                     the model, the input and the options; what is resumed must be equal
vectors-00000-of-00003.parquet  columns `id` and `vector`; or
vectors-00000-of-00003.npy      [R, dim] float32, with the ids in .ids.jsonl beside it
_skipped-00000-of-00003.jsonl   recordings of that shard that could not be embedded, and why

Readers of Parquet folders leave out names that begin with "_".
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.files import make_folder, write_bytes_apart
from mrl_jax.core.records import read_record, write_description
from mrl_jax.core.run_lock import alone

FORMAT = 1
EMBED_FILE = "_embed.json"
SKIPPED = "_skipped"
HINT = "write to another folder, or pass --overwrite"
VectorFormat = Literal["parquet", "npy"]
FORMATS: tuple[VectorFormat, ...] = get_args(VectorFormat)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputInfo:
    """The contents of _embed.json.

    Attributes:
        model: digest of the model, `ModelInfo.digest`.
        rotation: digest of the rotation that was applied; None for none.
        modality: "text" or "speech".
        input: digest of the items, as `Inputs.count_and_digest` has it.
        items: how many there are.
        dim: coordinates of a vector.
        task, prompt: put before each item; None for none.
        file_format: of the shards.
        shard_rows: items of a shard; the last one may have fewer.
    """

    model: str
    rotation: str | None
    modality: str
    input: str
    items: int
    dim: int
    task: str | None
    prompt: str | None
    file_format: VectorFormat
    shard_rows: int

    @property
    def shards(self) -> int:
        return -(-self.items // self.shard_rows)


_NAMES: Mapping[str, str] = {
    "model": "another model",
    "rotation": "another rotation",
    "modality": "another kind of input",
    "input": "another input, or one that has changed",
    "items": "another input",
    "dim": "another dim",
    "task": "another task",
    "prompt": "another prompt",
    "file_format": "another format",
    "shard_rows": "another number of rows a shard",
}


class ShardFolder:
    """Writes the shards of one output, each whole or not at all; several processes may at once.

    Args:
        overwrite: remove the shards of another model, input or options.

    Raises:
        MrlError: the folder holds the shards of another model, input or options, or files of
            others; it cannot be written.
    """

    def __init__(self, folder: Path, info: OutputInfo, *, overwrite: bool = False):
        self.folder, self.info = folder, info
        if info.file_format == "parquet":
            require("pyarrow", by="writing Parquet", where=folder)
        make_folder(folder)
        path = folder / EMBED_FILE
        with alone(folder):
            if path.is_file():
                try:
                    self._check_same()
                    return
                except MrlError:
                    if not overwrite:
                        raise
                self._clear()
            elif any(not entry.name.startswith(".") for entry in folder.iterdir()):
                problem = f"holds files, and no {EMBED_FILE}"
                raise MrlError(problem, where=folder, hint="write to an empty folder, or a new one")
            write_description(path, dataclasses.asdict(info), version=FORMAT)

    def _check_same(self) -> None:
        """Raises an `MrlError` where the folder holds other vectors than these."""
        path = self.folder / EMBED_FILE
        there = read_record(path, OutputInfo, version=FORMAT, what="an output", hint=HINT)
        for name, words in _NAMES.items():
            if getattr(there, name) != getattr(self.info, name):
                raise MrlError(f"holds the vectors of {words}", where=self.folder, hint=HINT)

    def _clear(self) -> None:
        """Remove all shards, and what says whose they are last."""
        for kind in ("vectors", SKIPPED):
            for file in [*self.folder.glob(f"{kind}-*"), *self.folder.glob(f".{kind}-*")]:
                file.unlink(missing_ok=True)
        (self.folder / EMBED_FILE).unlink()

    def is_done(self, number: int) -> bool:
        return self._file("vectors", number, f".{self.info.file_format}").is_file()

    def write(
        self,
        number: int,
        ids: Sequence[str],
        vectors: Float32[HostArray, "R dim"],
        skipped: Mapping[str, str],
    ) -> None:
        """Write a shard; what it skipped, by id, comes first, as the vectors make it done.

        Raises:
            MrlError: another run replaces the output.
        """
        self._check_same()
        if skipped:
            rows = [{"id": name, "reason": reason} for name, reason in skipped.items()]
            write_bytes_apart(self._file(SKIPPED, number, ".jsonl"), _json_lines(rows))
        file = self._file("vectors", number, f".{self.info.file_format}")
        if self.info.file_format == "parquet":
            write_bytes_apart(file, _parquet(ids, vectors))
            return
        write_bytes_apart(self._file("vectors", number, ".ids.jsonl"), _json_lines([*ids]))
        buffer = io.BytesIO()
        np.save(buffer, vectors)
        write_bytes_apart(file, buffer.getvalue())

    def remove(self, numbers: Sequence[int]) -> None:
        """Take shards back, the vectors first."""
        for number in numbers:
            self._file("vectors", number, f".{self.info.file_format}").unlink(missing_ok=True)
            self._file("vectors", number, ".ids.jsonl").unlink(missing_ok=True)
            self._file(SKIPPED, number, ".jsonl").unlink(missing_ok=True)

    def _file(self, kind: str, number: int, ending: str) -> Path:
        return self.folder / f"{kind}-{number:05d}-of-{self.info.shards:05d}{ending}"


def _json_lines(rows: Sequence[object]) -> bytes:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "backslashreplace")


def _parquet(ids: Sequence[str], vectors: HostArray) -> bytes:
    import pyarrow
    from pyarrow import parquet

    values = pyarrow.array(vectors.reshape(-1), pyarrow.float32())
    column = pyarrow.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    table = pyarrow.table({"id": pyarrow.array(list(ids), pyarrow.string()), "vector": column})
    sink = pyarrow.BufferOutputStream()
    # Vectors hardly shrink: their digits are noise.
    parquet.write_table(table, sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()
