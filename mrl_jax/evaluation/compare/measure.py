"""Trained models and cascades measured on one set: scores, costs, each encoded once."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from mrl_jax.checkpoints.models import MODEL_FILE, ModelInfo, read_model_info
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.paths import referenced_path
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_query_audio
from mrl_jax.evaluation.compare.cascades import run_cascade
from mrl_jax.evaluation.compare.systems import Cost, System
from mrl_jax.evaluation.encoded_set import encode_corpus, encode_queries, time_query
from mrl_jax.evaluation.scoring import Judgements, evaluate_retrieval
from mrl_jax.inference.cascade import Cascade
from mrl_jax.inference.cascade_config import CASCADE_FILE, CascadeInfo, read_cascade
from mrl_jax.inference.embedder import Embedder
from mrl_jax.metrics.intervals import Clusters
from mrl_jax.nn import param_tree

KS = (5, 10)
Info = ModelInfo | CascadeInfo
Corpora = dict[tuple[str, str, int], HostArray]
"""Document vectors by digest and dtype of the text tower, and where texts are cut."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What every system of a comparison is measured on.

    Attributes:
        data, judgements, clusters: the set, less the queries without a relevant document.
        dims: that all systems are searched at.
        timed: row of the query that is timed, that of median length.
        rate: samples a second that its recording is read at; None where no system reads it.
        max_seconds: longer recordings are refused.
        verify: compare the systems' files with their digests.
    """

    data: RetrievalSet
    judgements: Judgements
    clusters: Clusters
    dims: tuple[int, ...]
    timed: int
    rate: int | None
    max_seconds: float
    verify: bool = True

    @property
    def length(self) -> str:
        """Of the timed query, in words."""
        query = self.data.queries[self.timed]
        if query.audio is None or self.rate is None:
            return f"{len(query.text or query.transcript or '')} characters"
        return f"{len(load_query_audio(query, self.rate)) / self.rate:.1f} s"


def read_system(folder: Path) -> Info:
    """What a folder holds: a trained model, or a cascade.

    Raises:
        MrlError: neither, or damaged.
    """
    if (folder / CASCADE_FILE).is_file() and not (folder / MODEL_FILE).is_file():
        return read_cascade(folder)
    return read_model_info(folder)


def cascades_of(infos: Mapping[str, Info]) -> dict[str, CascadeInfo]:
    """The cascades among the systems."""
    return {name: info for name, info in infos.items() if isinstance(info, CascadeInfo)}


def recording_rate(folders: Mapping[str, Path], infos: Mapping[str, Info]) -> int | None:
    """Samples a second of the first system that takes recordings; None where none does."""
    for name, info in infos.items():
        if info.speech is not None:
            return getattr(
                read_info(referenced_path(folders[name], info.speech.path)).config,
                "sample_rate",
                None,
            )
    return None


def measure_systems(
    folders: Mapping[str, Path],
    infos: Mapping[str, Info],
    columns: Mapping[str, Sequence[str] | None],
    task: Task,
) -> list[System]:
    """Each system on the task.

    Queries are encoded once a system. Documents are encoded once in all, and again only where
    a system computes in another dtype, or cuts texts elsewhere.

    Args:
        folders, infos: of the systems by name.
        columns: of `check_queries`, by name.
        task: what they are measured on.
    """
    corpora: Corpora = {}
    measured, cascades = [], cascades_of(infos)
    for name, folder in folders.items():
        if name in cascades:
            info, column = cascades[name], columns[name]
            measured.append(_measure_cascade(name, folder, info, column, task, corpora))
        else:
            measured.append(_measure_model(name, folder, task, corpora))
    return measured


def _measure_model(name: str, folder: Path, task: Task, corpora: Corpora) -> System:
    embedder = Embedder.load(folder, max_seconds=task.max_seconds, verify=task.verify)
    info, model, encoder = embedder.info, embedder.model, embedder.encoder
    corpus = (info.text.digest, str(model.text.dtype), info.max_text_tokens)
    if corpus not in corpora:
        corpora[corpus] = encode_corpus(embedder, task.data)
    queries = encode_queries(embedder, task.data)
    results = evaluate_retrieval(queries, corpora[corpus], task.judgements, dims=task.dims, ks=KS)
    query = task.data.queries[task.timed]
    rate, kind = model.speech.config.sample_rate, info.kind.replace("_", " ")
    timed = query.text or "" if query.audio is None else load_query_audio(query, rate)
    if getattr(info.fusion, "nested", False):
        kind += ", nested"
    cost = Cost(
        parameters=param_tree.count(param_tree.flat_weights(model)),
        trained=param_tree.count(param_tree.flatten(encoder.trained)),
        seconds=time_query(encoder.alone(timed, task=query.task or "", prompt=query.prompt)),
        flops=encoder.flops(timed, task=query.task or "", prompt=query.prompt),
    )
    scores = {result.dim: result.per_query for result in results}
    return System(name=name, kind=kind, scores=scores, cost=cost)


def _measure_cascade(
    name: str,
    folder: Path,
    info: CascadeInfo,
    column: Sequence[str] | None,
    task: Task,
    corpora: Corpora,
) -> System:
    cascade = Cascade(folder, info, max_seconds=task.max_seconds, verify=task.verify)
    corpus = (info.text.digest, cascade.dtype, info.config.max_text_tokens)
    if corpus not in corpora:
        texts = [document.text for document in task.data.corpus]
        corpora[corpus] = cascade.embed(texts, progress="corpus")
    documents = corpora[corpus]
    run = run_cascade(
        cascade, task.data, documents, task.judgements, column=column, dims=task.dims, ks=KS
    )
    query, timed = task.data.queries[task.timed], run.stages.transcripts[task.timed]
    if cascade.rate is not None:
        timed = load_query_audio(query, cascade.rate)
    prompt = cascade.prompt_of(query)
    cost = Cost(
        parameters=cascade.parameters,
        trained=0,
        seconds=time_query(cascade.alone(timed, prompt=prompt)),
        flops=cascade.flops(timed, prompt=prompt),
    )
    scores = {result.dim: result.per_query for result in run.stages.results}
    return System(name=name, kind=cascade.kind, scores=scores, cost=cost, run=run)
