"""Recordings and their transcripts, from any kind of data set.

A retrieval set (or a published one by name), a manifest, or a built data set.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.decode import load_audio_of
from mrl_jax.data.build.builder import read_examples
from mrl_jax.data.build.dataset import SpeechDataset, open_dataset
from mrl_jax.data.build.info import BUILD_FILE
from mrl_jax.data.sets.manifest import EmbeddedAudio, Example
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.data.sets.parquet import EmbeddedReader, ParquetColumns
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_query_audio

Column = Literal["transcript", "text"]
"""The column with the transcripts: beside the document, or the document itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """One recording; `load` gives its samples [S] float32 at a given rate."""

    id: str
    transcript: str | None
    speaker: str | None
    load: Callable[[int], HostArray]


def read_utterances(data: str | Path, *, split: str = "") -> list[Utterance]:
    """The recordings of a set, which is a retrieval set, a manifest or a built data set.

    Args:
        data: a folder, a manifest or table, or the name of a published set.
        split: of a manifest or built data set; all of a manifest, and "test" of a built
            one, if empty. Retrieval sets have none.

    Raises:
        MrlError: nothing of the kind; no such split; a retrieval set with written queries.
    """
    path = user_path(data)
    if (path / BUILD_FILE).is_file():
        return of_dataset(open_dataset(path, split or "test"))
    if path.is_file():
        examples = read_examples(path, ParquetColumns())
        chosen = [example for example in examples if split in ("", example.split)]
        if not chosen:
            there = ", ".join(sorted({example.split for example in examples}))
            raise MrlError(f"no split {split!r}; there are: {there}", where=path)
        reader = EmbeddedReader()
        return [_of_example(example, reader) for example in chosen]
    if split:
        problem = f"is a retrieval set, which has no split {split!r}"
        raise MrlError(problem, where=data, hint="leave it out")
    return of_retrieval_set(load_retrieval_set(data))


def of_retrieval_set(data: RetrievalSet) -> list[Utterance]:
    """The spoken queries of a set.

    Raises:
        MrlError: a query that is written.
    """
    written = [query.id for query in data.queries if query.audio is None]
    if written:
        some = f"{len(written)} of {len(data.queries)} queries"
        problem = f"{some} have no recording, the first is {written[0]!r}"
        raise MrlError(problem, where="queries", hint="choose a set of spoken queries")
    return [
        Utterance(
            id=query.id,
            transcript=query.transcript,
            speaker=query.speaker,
            load=lambda rate, query=query: load_query_audio(query, rate),
        )
        for query in data.queries
    ]


def of_dataset(data: SpeechDataset) -> list[Utterance]:
    """The clips of a built data set, which are there at its own rate only."""

    def loader(index: int) -> Callable[[int], HostArray]:
        def load(rate: int) -> HostArray:
            if rate != data.sample_rate:
                problem = f"the data set is at {data.sample_rate} Hz, the tower takes {rate} Hz"
                raise MrlError(problem, where=data.folder, hint="build it again at that rate")
            return data.clip(index)

        return load

    rows = zip(data.ids, data.transcripts, data.speakers, strict=True)
    return [
        Utterance(id=key, transcript=transcript, speaker=speaker, load=loader(index))
        for index, (key, transcript, speaker) in enumerate(rows)
    ]


def need_transcripts(
    ids: Sequence[str], transcripts: Sequence[str | None], where: object, *, column: str
) -> list[str]:
    """The transcripts, all of which must be there.

    Raises:
        MrlError: one is absent, or empty.
    """
    rows = list(zip(ids, transcripts, strict=True))
    absent = [key for key, text in rows if text is None]
    empty = [key for key, text in rows if text is not None and not text.strip()]
    for lack, keys, hint in (
        (f"no {column}", absent, f"give each its `{column}`, or leave it out"),
        (f"an empty {column}", empty, "transcribe them, or leave them out"),
    ):
        if keys:
            problem = f"{len(keys)} of {len(ids)} recordings have {lack}, the first is {keys[0]!r}"
            raise MrlError(problem, where=where, hint=hint)
    return [text or "" for text in transcripts]


def check_column(column: str, name: str) -> None:
    """Raises an `MrlError` unless `column` is one of `Column`."""
    if column not in get_args(Column):
        raise MrlError(f"{name} is {column!r}, expected {' or '.join(get_args(Column))}")


def _of_example(example: Example, reader: EmbeddedReader) -> Utterance:
    name = f"example {example.id!r}"

    def load(rate: int) -> HostArray:
        audio = example.audio
        if isinstance(audio, EmbeddedAudio):
            audio = reader.read(audio)
        return load_audio_of(name, audio, rate)

    return Utterance(
        id=example.id, transcript=example.transcript, speaker=example.speaker, load=load
    )
