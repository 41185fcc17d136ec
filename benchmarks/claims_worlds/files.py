"""A world on disk: a manifest, text pairs and two retrieval sets, and proof that none leaks.

train.jsonl        recordings to train on, with transcripts, French texts and speakers
recogniser.jsonl   the same and more for the recogniser alone; only where a world has more
text_pairs.jsonl   pairs of sentences for the text stage
validation/ test/  retrieval sets of recordings whose sentences are in none of these
world.json         counts and rules; written last, so a folder that has it is whole
"""

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import write_json
from mrl_jax.data.audio.encode import flac_bytes, quantize
from mrl_jax.data.sets.manifest import read_manifest
from mrl_jax.data.sets.retrieval_set import (
    Document,
    Query,
    RetrievalSet,
    read_retrieval_set,
    write_retrieval_set,
)
from mrl_jax.data.sets.tables import read_jsonl
from mrl_jax.data.sets.text_pairs import read_pairs
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.evaluation.report.records import write_jsonl

WORLD_FILE = "world.json"
TRAIN, RECOGNISER, PAIRS = "train.jsonl", "recogniser.jsonl", "text_pairs.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One recording: what is said, by whom, and the document that answers it."""

    id: str
    audio: Path
    transcript: str
    text: str
    speaker: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """All that a world consists of.

    Attributes:
        train, validation, test: recordings of different sentences.
        rules: what was left out and why, for world.json.
        pairs: (query, document) for the text stage; by default those of `train`.
        recogniser: recordings besides `train` for the recogniser; their text is not read.
        validation_others, test_others: documents that answer no query.
        speakers_apart: whether no speaker of the test may be in training.
    """

    train: Sequence[Clip]
    validation: Sequence[Clip]
    test: Sequence[Clip]
    rules: Sequence[str]
    pairs: Sequence[tuple[str, str]] | None = None
    recogniser: Sequence[Clip] = ()
    validation_others: Sequence[str] = ()
    test_others: Sequence[str] = ()
    speakers_apart: bool = False


def read_table(source: Path) -> list[dict[str, Any]]:
    """The rows of a data set's table.jsonl.

    Raises:
        MrlError: the data are not there.
    """
    table = source / "table.jsonl"
    if not table.is_file():
        hint = "pass the folder of the data as --data, or leave the world out"
        raise MrlError("the data of this world are not there", where=source, hint=hint)
    return [row for _, row in read_jsonl(table)]


def write_audio(path: Path, clip: HostArray, sample_rate: int) -> None:
    """[S] float32 as FLAC, no louder than nine tenths of full scale."""
    peak = max(float(np.abs(clip).max()), 1e-6)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(flac_bytes(quantize(clip * min(0.9 / peak, 1.0)), sample_rate))


def write_contents(folder: Path, contents: Contents) -> None:
    """Every file of a world, checked by `check_world`; world.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = contents.pairs
    if pairs is None:
        pairs = list(dict.fromkeys((clip.transcript, clip.text) for clip in contents.train))
    write_jsonl(folder / TRAIN, [_row(clip, folder) for clip in contents.train])
    if contents.recogniser:
        rows = [_row(clip, folder) for clip in (*contents.train, *contents.recogniser)]
        write_jsonl(folder / RECOGNISER, rows)
    write_jsonl(folder / PAIRS, [{"query": q, "document": d} for q, d in pairs])
    sets = {
        "validation": write_set(
            folder / "validation", contents.validation, contents.validation_others
        ),
        "test": write_set(folder / "test", contents.test, contents.test_others),
    }
    check_world(folder, speakers_apart=contents.speakers_apart)
    counts = {
        "training recordings": len(contents.train),
        "training speakers": len({clip.speaker for clip in contents.train}),
        "recordings for the recogniser": len(contents.train) + len(contents.recogniser),
        "text pairs": len(pairs),
        **{
            f"{name} {kind}": count
            for name, one in sets.items()
            for kind, count in (
                ("queries", len(one.queries)),
                ("documents", len(one.corpus)),
                ("speakers", len({query.speaker for query in one.queries})),
            )
        },
    }
    world = {"counts": counts, "rules": list(contents.rules)}
    write_json(folder / WORLD_FILE, {**world, "speakers apart": contents.speakers_apart})


def write_set(folder: Path, clips: Sequence[Clip], others: Iterable[str] = ()) -> RetrievalSet:
    """A retrieval set; texts that are equal but for case and punctuation are one document."""
    documents: dict[str, Document] = {}
    queries, qrels = [], {}
    for clip in clips:
        document = _document(documents, clip.text)
        query = Query(
            id=clip.id, audio=clip.audio, transcript=clip.transcript, speaker=clip.speaker
        )
        queries.append(query)
        qrels[clip.id] = {document.id: 1}
    for text in others:
        _document(documents, text)
    return write_retrieval_set(folder, queries, list(documents.values()), qrels)


def check_world(folder: Path, *, speakers_apart: bool) -> None:
    """Prove from the written files that training holds nothing of validation and test.

    Sentences are compared in lower case and without punctuation: transcripts, the texts that
    answer them, and both sides of the text pairs.

    Raises:
        MrlError: a sentence, a recording or a speaker that must not be in training is there.
    """
    files = [folder / name for name in (TRAIN, RECOGNISER) if (folder / name).is_file()]
    examples = [example for file in files for example in read_manifest(file)]
    pairs = read_pairs(folder / PAIRS)
    sentences = {plain_text(one) for pair in pairs for one in (pair.query, pair.document)}
    for example in examples:
        sentences |= {plain_text(example.transcript or ""), plain_text(example.text)}
    recordings = {str(example.audio) for example in examples}
    speakers = {example.speaker for example in examples}
    sets = {name: read_retrieval_set(folder / name) for name in ("validation", "test")}
    if overlap := _sentences(sets["validation"]) & _sentences(sets["test"]):
        raise MrlError(f"validation and test share {min(overlap)!r}", where=folder)
    for name, one in sets.items():
        if overlap := sentences & _sentences(one):
            raise MrlError(f"training holds {min(overlap)!r} of {name}", where=folder)
        if overlap := recordings & {str(query.audio) for query in one.queries}:
            raise MrlError(f"training holds the recording {min(overlap)} of {name}", where=folder)
    test_speakers = {query.speaker for query in sets["test"].queries}
    validation_speakers = {query.speaker for query in sets["validation"].queries}
    if speakers_apart and (overlap := test_speakers & (speakers | validation_speakers)):
        raise MrlError(f"the test's speaker {min(map(str, overlap))} is in training", where=folder)


def components(labels: Sequence[Iterable[Hashable]]) -> list[int]:
    """For each item the number of its group: items with a label in common are in one group."""
    numbers: dict[Hashable, int] = {}
    edges = [
        (row, numbers.setdefault(label, len(numbers)))
        for row, some in enumerate(labels)
        for label in some
    ]
    rows, columns = np.asarray(edges, np.int64).reshape(-1, 2).T
    size = len(labels) + len(numbers)
    graph = coo_array((np.ones(len(rows)), (rows, columns + len(labels))), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(labels)].tolist()


def _sentences(data: RetrievalSet) -> set[str]:
    """Transcripts of a set's queries, and the documents that answer them."""
    texts = {document.id: document.text for document in data.corpus}
    answers = {texts[k] for grades in data.qrels.values() for k, grade in grades.items() if grade}
    return {plain_text(one) for one in (*answers, *(q.transcript or "" for q in data.queries))}


def _document(documents: dict[str, Document], text: str) -> Document:
    return documents.setdefault(plain_text(text), Document(id=f"d{len(documents)}", text=text))


def _row(clip: Clip, folder: Path) -> dict[str, Any]:
    inside = clip.audio.is_relative_to(folder)
    return {
        "id": clip.id,
        "audio": str(clip.audio.relative_to(folder) if inside else clip.audio.resolve()),
        "text": clip.text,
        "transcript": clip.transcript,
        "speaker": clip.speaker,
        "document_id": plain_text(clip.text),
    }
