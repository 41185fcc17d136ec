"""Cascades measured on a retrieval set, stage by stage."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.build.utterances import need_transcripts, of_retrieval_set
from mrl_jax.data.sets.retrieval_set import RetrievalSet, read_query_column
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.data.text.prompts import prompt_of
from mrl_jax.evaluation.scoring import Judgements, RetrievalResult, evaluate_retrieval
from mrl_jax.inference.cascade import Cascade
from mrl_jax.inference.cascade_config import CascadeConfig
from mrl_jax.metrics.error_rates import Comparison, compare_transcripts, import_jiwer


@dataclasses.dataclass(frozen=True)
class Stages:
    """One way from queries to results, each stage's output in the order of the queries.

    Attributes:
        transcripts: of the recogniser, or of the column.
        translations: what is embedded, less the prompt: the transcripts themselves without a
            translator.
        results: at each dim.
    """

    transcripts: Sequence[str]
    translations: Sequence[str]
    results: Sequence[RetrievalResult]


@dataclasses.dataclass(frozen=True)
class CascadeRun:
    """A cascade measured on a set.

    Attributes:
        stages: from the recogniser's transcripts, or those of the column.
        true: the same with the set's own transcripts; None where some are missing, or where
            they are the column itself.
        errors: of the recogniser; None where `true` is.
    """

    stages: Stages
    true: Stages | None
    errors: Comparison | None


def check_queries(
    name: str, config: CascadeConfig, data: RetrievalSet, place: Path | str
) -> list[str] | None:
    """Check a cascade against a set before anything is encoded, and read its column.

    Args:
        name, config: of the cascade.
        data: the set, less the queries without a relevant document.
        place: the set as the user named it.

    Returns:
        The column in the order of the queries; None where a recogniser writes the transcripts.

    Raises:
        MrlError: a task without a prompt; a written query for a recogniser; no such column,
            or a query whose transcript is empty, which is named; jiwer is not installed.
    """
    hint = f"correct the task, or write {name} with prompts.{{task}}="
    for query in data.queries:
        prompt_of(query.task, config.prompts, f"{place}, query {query.id!r}", hint=hint)
    column = None
    if config.recogniser:
        of_retrieval_set(data)
    else:
        column = transcripts_of(data, place, config.transcripts)
    known = _known(data)
    if known is not None and known != column:
        import_jiwer()
        if config.plain_errors:
            ids = [query.id for query in data.queries]
            need_transcripts(ids, list(map(plain_text, known)), place, column="plain transcript")
    return column


def run_cascade(
    cascade: Cascade,
    data: RetrievalSet,
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    *,
    column: Sequence[str] | None,
    dims: Sequence[int],
    ks: Sequence[int],
) -> CascadeRun:
    """Every stage once; the same again from the true transcripts, where they are known.

    Args:
        cascade: to be measured.
        data, judgements: the set, less the queries without a relevant document.
        documents: the corpus by the cascade's text tower.
        column: of `check_queries`.
        dims, ks: see `evaluate_retrieval`.

    Raises:
        MrlError: a broken recording.
    """
    prompts = [cascade.prompt_of(query) for query in data.queries]
    hypotheses = cascade.transcribe(data.queries) if column is None else list(column)

    def follow(transcripts: Sequence[str]) -> Stages:
        translations = cascade.translate(transcripts, progress="translator")
        vectors = cascade.embed(translations, prompts=prompts, progress="queries")
        results = evaluate_retrieval(vectors, documents, judgements, dims=dims, ks=ks)
        return Stages(transcripts, translations, results)

    stages, known = follow(hypotheses), _known(data)
    # A column of the true transcripts has no errors to measure.
    if known is None or (cascade.config.transcripts and known == hypotheses):
        return CascadeRun(stages, None, None)
    spelled = plain_text if cascade.config.plain_errors else str
    errors = compare_transcripts(list(map(spelled, known)), list(map(spelled, hypotheses)))
    return CascadeRun(stages, follow(known), errors)


def transcripts_of(data: RetrievalSet, place: Path | str, column: str) -> list[str]:
    """A column of the queries: `transcript`, `text`, or any other of a set on disk.

    Raises:
        MrlError: a query without it, or whose text is empty; another column of a set that
            is not on disk.
    """
    ids = [query.id for query in data.queries]
    if column in ("transcript", "text"):
        values = [getattr(query, column) for query in data.queries]
        return need_transcripts(ids, values, place, column=column)
    if not Path(place).is_dir():
        raise MrlError(
            f"has no column {column!r} that could be read",
            where=place,
            hint="name `transcript` or `text`, or a folder of a set",
        )
    texts = read_query_column(place, column)
    return [texts[key] for key in ids]


def _known(data: RetrievalSet) -> list[str] | None:
    """The true transcripts, where every query has one."""
    known = [query.transcript for query in data.queries if query.transcript]
    return known if len(known) == len(data.queries) else None
