"""Recordings and their transcripts, from any kind of data set.

A retrieval set (or a published one by name), a manifest, or a built data set.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import load_audio_of
from mrl_jax.data.build.builder import read_examples
from mrl_jax.data.build.dataset import SpeechDataset, open_dataset
from mrl_jax.data.build.info import BUILD_FILE
from mrl_jax.data.sets.manifest import EmbeddedAudio, Example
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.data.sets.parquet import ParquetColumns
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_query_audio

Column = Literal["transcript", "text"]
"""The column with the transcripts: beside the document, or the document itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """One recording.

    Attributes:
        id: its name in its set.
        transcript: None where there is none.
        speaker: who speaks, where that is known.
        load: the samples [S] float32, at a given rate.
    """

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
    path = Path(data)
    if (path / BUILD_FILE).is_file():
        return of_dataset(open_dataset(path, split or "test"))
    if path.is_file():
        examples = read_examples(path, ParquetColumns())
        chosen = [example for example in examples if split in ("", example.split)]
        if not chosen:
            there = ", ".join(sorted({example.split for example in examples}))
            raise MrlError(f"no split {split!r}; there are: {there}", where=path)
        return [_of_example(example) for example in chosen]
    if split:
        raise MrlError(
            f"is a retrieval set, which has no split {split!r}", where=data, hint="leave it out"
        )
    return of_retrieval_set(load_retrieval_set(data))


def of_retrieval_set(data: RetrievalSet) -> list[Utterance]:
    """The spoken queries of a set.

    Raises:
        MrlError: a query that is written.
    """
    written = [query.id for query in data.queries if query.audio is None]
    if written:
        raise MrlError(
            f"{len(written)} of {len(data.queries)} queries have no recording, the first is "
            f"{written[0]!r}",
            where="queries",
            hint="choose a set of spoken queries",
        )
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
                raise MrlError(
                    f"the data set is at {data.sample_rate} Hz, the tower takes {rate} Hz",
                    where=data.folder,
                    hint="build it again at that rate",
                )
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
    absent = [key for key, text in zip(ids, transcripts, strict=True) if text is None]
    if absent:
        raise MrlError(
            f"{len(absent)} of {len(ids)} recordings have no {column}, the first is {absent[0]!r}",
            where=where,
            hint=f"give each its `{column}`, or leave it out",
        )
    texts = [text or "" for text in transcripts]
    empty = [key for key, text in zip(ids, texts, strict=True) if not text.strip()]
    if empty:
        raise MrlError(
            f"{len(empty)} of {len(ids)} recordings have an empty {column}, the first is "
            f"{empty[0]!r}",
            where=where,
            hint="transcribe them, or leave them out",
        )
    return texts


def check_column(column: str, name: str) -> None:
    """Raises an `MrlError` unless `column` is one of `Column`."""
    if column not in get_args(Column):
        raise MrlError(f"{name} is {column!r}, expected {' or '.join(get_args(Column))}")


def _of_example(example: Example) -> Utterance:
    name = f"example {example.id!r}"

    def load(rate: int) -> HostArray:
        audio = example.audio
        if isinstance(audio, EmbeddedAudio):
            raise MrlError(
                "holds its recordings inside",
                where=audio.file,
                hint="build a data set of it: `mrl-jax build SOURCE OUT`",
            )
        return load_audio_of(name, audio, rate)

    return Utterance(
        id=example.id, transcript=example.transcript, speaker=example.speaker, load=load
    )
