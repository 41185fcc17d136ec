"""The pipeline baseline: recogniser, translator, text tower, each stage's output kept."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl_jax.array_types import Float32, HostArray, Int
from mrl_jax.data.retrieval_set import RetrievalSet, load_query_audio, read_query_column
from mrl_jax.data.text import TextTokenizer
from mrl_jax.data.utterances import need_transcripts, of_retrieval_set
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.comparison import Clusters
from mrl_jax.evaluation.embed_texts import TextEmbedder
from mrl_jax.evaluation.retrieval import (
    KS,
    Judgements,
    RetrievalResult,
    check_dims,
    evaluate_retrieval,
    judgements_of,
)
from mrl_jax.evaluation.search import unit_prefix
from mrl_jax.evaluation.transcribe import Recogniser
from mrl_jax.evaluation.translate import Translator
from mrl_jax.measured_set import clusters_of
from mrl_jax.model_folder import MODEL_FILE, read_model_info
from mrl_jax.tower_folder import load_qwen3, read_info


@dataclasses.dataclass(frozen=True)
class TextSide:
    """What embeds texts.

    Attributes:
        embed: texts to [N, E].
        width: E.
        dims: prefixes that were trained, or halves of the width.
        digest: of the tower's weights.
    """

    embed: TextEmbedder
    width: int
    dims: tuple[int, ...]
    digest: str


@dataclasses.dataclass(frozen=True)
class Stages:
    """One way from queries to results, each stage's output in the order of the queries.

    Attributes:
        heard: transcripts.
        translated: what was embedded, less the prompt: the transcripts themselves without a
            translator.
        results: at each dim.
        ranks: [Q] place of each query's best relevant document at the widest dim, from 1.
    """

    heard: Sequence[str]
    translated: Sequence[str]
    results: Sequence[RetrievalResult]
    ranks: Int[HostArray, " Q"]


@dataclasses.dataclass(frozen=True)
class PipelineRun:
    """A pipeline measured on a set.

    Attributes:
        data: the set, less the queries without a relevant document.
        left_out: how many those are.
        stages: with the recogniser's transcripts, or those of the column.
        true: the same with the set's own transcripts; None where they are not all there,
            or are what was measured.
    """

    data: RetrievalSet
    left_out: int
    judgements: Judgements
    clusters: Clusters
    stages: Stages
    true: Stages | None


def open_text_side(folder: Path, dims: Sequence[int] | None) -> TextSide:
    """The text tower of a tower folder, or that of a trained model.

    Args:
        folder: made by `python -m converters qwen3`, the text stage or `train.py`.
        dims: prefixes to search at; the folder's own for None.

    Raises:
        MrlError: neither; a dim above the width.
    """
    chosen, tower, max_tokens = None, folder, 512
    if (folder / MODEL_FILE).is_file():
        info = read_model_info(folder)
        chosen, max_tokens = tuple(info.dims), info.max_text_tokens
        tower = folder / info.text.path
    digest = read_info(tower, expected=("qwen3",)).digest
    module = load_qwen3(tower)
    width = module.config.width
    halves = tuple(width >> shift for shift in range(4) if width >> shift)
    chosen = tuple(dims) if dims is not None else chosen or halves
    check_dims(chosen, width, where="--dims")
    embed = TextEmbedder(module, TextTokenizer(tower, max_tokens=max_tokens))
    return TextSide(embed, width, chosen, digest)


def run_pipeline(
    data: RetrievalSet,
    text: TextSide,
    *,
    recogniser: Recogniser | None = None,
    heard: Sequence[str] | None = None,
    translator: Translator | None = None,
    prompt: str = "",
    ks: Sequence[int] = KS,
) -> PipelineRun:
    """Every stage once; the same again from the true transcripts, where they are known.

    Args:
        data: the set.
        text: embeds queries and documents.
        recogniser: hears the queries.
        heard: or transcripts of `data.judged_only()`'s queries, in their order.
        translator: None where the text tower reads the transcripts' language.
        prompt: put before each query, word for word.
        ks: ranks that metrics are cut at.

    Raises:
        MrlError: a written query, where there is a recogniser; a broken recording.
    """
    if (recogniser is None) == (heard is None):
        raise ValueError("expected a recogniser or transcripts, and not both")
    left_out, data = len(data.unjudged), data.judged_only()
    judgements = judgements_of(data)
    if recogniser is not None:
        utterances = of_retrieval_set(data)
        clips = [load_query_audio(query, recogniser.config.sample_rate) for query in data.queries]
        names = [f"query {utterance.id}" for utterance in utterances]
        heard = recogniser.transcribe(clips, names=names, progress="recogniser")
    assert heard is not None
    documents = text.embed([document.text for document in data.corpus], progress="corpus")
    known = [query.transcript for query in data.queries if query.transcript]

    def follow(transcripts: Sequence[str]) -> Stages:
        translated = (
            list(transcripts)
            if translator is None
            else translator.translate(transcripts, progress="translator")
        )
        vectors = text.embed([prompt + said for said in translated], progress="queries")
        results = evaluate_retrieval(vectors, documents, judgements, dims=text.dims, ks=ks)
        ranks = answer_ranks(vectors, documents, judgements, max(text.dims))
        return Stages(list(transcripts), translated, results, ranks)

    stages = follow(heard)
    complete = len(known) == len(data.queries) and known != list(heard)
    true = follow(known) if complete else None
    return PipelineRun(data, left_out, judgements, clusters_of(data, judgements), stages, true)


def transcripts_of(data: RetrievalSet, folder: Path | str, column: str) -> list[str]:
    """A column of the judged queries: `transcript`, `text`, or any other of a set on disk.

    Raises:
        MrlError: a query without it, or whose text is empty; another column of a set that
            is not on disk.
    """
    queries = data.judged_only().queries
    ids = [query.id for query in queries]
    if column in ("transcript", "text"):
        values = [getattr(query, column) for query in queries]
        return need_transcripts(ids, values, folder, column=column)
    if not Path(folder).is_dir():
        raise MrlError(
            f"has no column {column!r} that could be read",
            where=folder,
            mend="name `transcript` or `text`, or a folder of a set",
        )
    found = read_query_column(folder, column)
    return [found[key] for key in ids]


def answer_ranks(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    dim: int,
) -> Int[HostArray, " Q"]:
    """From 1: one more than the documents that score higher than the best relevant one."""
    asked = unit_prefix(queries, dim).astype(np.float64)
    held = unit_prefix(documents, dim).astype(np.float64)
    place_of = {key: place for place, key in enumerate(judgements.document_ids)}
    ranks = np.zeros(len(asked), np.int64)
    for row, key in enumerate(judgements.query_ids):
        relevant = [place_of[d] for d, grade in judgements.qrels[key].items() if grade > 0]
        scores = np.sum(held * asked[row], axis=1)  # Equal rows score the same, wherever they lie.
        ranks[row] = 1 + int(np.sum(scores > scores[relevant].max()))
    return ranks


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
