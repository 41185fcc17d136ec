"""A model and a retrieval set as reports open them: checked, then each side encoded once."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.hub import shown_model
from mrl_jax.data.sets.digests import digest_retrieval_set
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.data.sets.retrieval_set import (
    RetrievalSet,
    load_queries,
    load_query_audio,
    with_task_or_prompt,
)
from mrl_jax.data.text.prompts import check_task
from mrl_jax.evaluation.report.folder import library_commit
from mrl_jax.evaluation.report.options import QueryOptions, SetOptions
from mrl_jax.evaluation.report.records import Source
from mrl_jax.evaluation.report.statistics import clusters_by
from mrl_jax.evaluation.scoring import Judgements, check_dims
from mrl_jax.inference.embedder import Embedder, warn_untrained
from mrl_jax.inference.search.vectors import Vectors, check_separate
from mrl_jax.metrics.intervals import Clusters

REPEATS = 5
"""Runs of one query that are timed."""


@dataclasses.dataclass(frozen=True)
class OpenedSet:
    """A model and a set, its queries under the task or prompt of the report's options."""

    options: SetOptions
    embedder: Embedder
    data: RetrievalSet

    @property
    def source(self) -> Source:
        """For the records: what is measured on what."""
        return Source(
            data=str(self.options.data),
            data_digest=digest_retrieval_set(self.data),
            model=shown_model(self.options.model),
            model_digest=self.embedder.info.digest,
            commit=library_commit(),
        )


def open_set(options: SetOptions) -> OpenedSet:
    """Load the model and the set of a report.

    Raises:
        MrlError: one of them cannot be read; a task that the model has no prompt for.
    """
    embedder = Embedder.load(options.model, max_seconds=options.max_seconds, verify=options.verify)
    data = load_set(options)
    check_task(options.task, embedder.info.prompts, options.model)
    return OpenedSet(options, embedder, data)


def load_set(options: QueryOptions) -> RetrievalSet:
    """A set by its folder or name, under one task or after one prompt where one is given.

    Raises:
        MrlError: as `load_retrieval_set`; a set with issues under `--strict`; a task and a prompt.
    """
    data = load_retrieval_set(options.data, strict=options.strict, split=options.qrels_split)
    return with_task_or_prompt(data, task=options.task, prompt=options.prompt)


def encode_set(embedder: Embedder, data: RetrievalSet) -> tuple[Vectors, HostArray]:
    """`encode_queries`, and `encode_corpus`."""
    return encode_queries(embedder, data), encode_corpus(embedder, data)


def encode_queries(embedder: Embedder, data: RetrievalSet) -> Vectors:
    """Vectors of the queries, which are all spoken or all written.

    Raises:
        MrlError: a broken recording; queries both spoken and written.
    """
    rate = embedder.model.speech.config.sample_rate
    spoken = [query for query in data.queries if query.audio is not None]
    if spoken and len(spoken) < len(data.queries):
        raise MrlError(
            f"{len(spoken)} of {len(data.queries)} queries are spoken and the others written",
            where="queries",
            hint="measure them as two sets",
        )
    if spoken:
        clips, tasks, prompts, names = load_queries(spoken, rate)
        return embedder.encoder.speech(
            clips, tasks=tasks, prompts=prompts, names=names, progress="queries"
        )
    return embedder.encoder.text(
        [query.text or "" for query in data.queries],
        tasks=[query.task or "" for query in data.queries],
        prompts=[query.prompt for query in data.queries],
        progress="queries",
    )


def encode_corpus(embedder: Embedder, data: RetrievalSet) -> HostArray:
    """[N, E] vectors of the documents."""
    return embedder.encoder.text([doc.text for doc in data.corpus], progress="corpus")


def describe_prompts(embedder: Embedder, data: RetrievalSet) -> str:
    """Which prompts stand before the queries, in words."""
    prompts = embedder.encoder.prompts_of(
        [query.task or "" for query in data.queries],
        [query.prompt for query in data.queries],
        len(data.queries),
    )
    used = sorted({*prompts} - {""})
    if not used:
        return "No prompt stands before the queries."
    quoted = " or ".join(json.dumps(words.strip(), ensure_ascii=False) for words in used)
    some = "Some stand alone. " if "" in prompts else ""
    return f"{some}Before the queries stands {quoted}."


def median_query(data: RetrievalSet, rate: int | None) -> int:
    """Row of the query of median length: of its recording, or of its words."""
    if rate is None or data.queries[0].audio is None:
        lengths = [len(query.text or query.transcript or "") for query in data.queries]
    else:
        lengths = [len(load_query_audio(query, rate)) for query in data.queries]
    return int(np.argsort(lengths, kind="stable")[len(lengths) // 2])


def time_query(embed: Callable[[], object]) -> float:
    """Seconds of the median of some runs, after one that compiles."""
    embed()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        embed()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def need_prefixes(embedder: Embedder, model: Path) -> None:
    """Refuse a model whose query vectors of one dim are no prefixes of another's.

    Raises:
        MrlError: naming what such a model can be measured with.
    """
    if embedder.model.separate_dims:
        raise MrlError(
            "has separate query vectors for each dimension, and only prefixes of one vector can "
            "be measured so",
            where=model,
            hint="use retrieval, robustness, intent or compare, or train with model.nested=true",
        )


def clusters_of(data: RetrievalSet, judgements: Judgements) -> Clusters:
    """Clusters of the judged queries by their words and speakers."""
    queries = [data.queries[row] for row in judgements.judged]
    return clusters_by(
        [query.id for query in queries],
        [query.transcript or query.text for query in queries],
        [query.speaker for query in queries],
    )


def chosen_dims(embedder: Embedder, dims: Sequence[int] | None) -> tuple[int, ...]:
    """The dims to measure: those trained for None. Warns of others, refuses impossible ones."""
    if dims is None:
        return tuple(embedder.info.dims)
    check_dims(dims, embedder.width, where="--dims")
    for dim in dims:
        check_separate(dim, embedder.model.separate_dims, where="--dims")
        warn_untrained(dim, embedder.info.dims, stacklevel=3)
    return tuple(dims)
