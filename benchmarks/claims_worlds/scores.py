"""Reports of `eval compare` as arrays: one value a query, system and dimension.

Folds of a world are put one after the other, and seeds of a head are averaged query by query.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.data.sets.retrieval_set import read_retrieval_set
from mrl_jax.evaluation.compare.stages import STAGES
from mrl_jax.metrics.intervals import Clusters

from .files import components

METRIC = "ndcg@10"
QUERIES = "queries.jsonl"
Scores = Mapping[str, Mapping[int, Float[HostArray, " Q"]]]
"""System to dimension to one value a query."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queries:
    """The test queries of some parts of a world, part by part.

    Attributes:
        keys: (part, id of the query).
        clusters: by sentence and by speaker; queries are of one sentence if they share their
            transcript or a document that answers them.
    """

    keys: Sequence[tuple[str, str]]
    clusters: Clusters


def read_queries(folders: Mapping[str, Path]) -> Queries:
    """Of the test sets of the parts."""
    keys, labels, speakers = [], [], []
    for part, folder in folders.items():
        data = read_retrieval_set(folder)
        texts = {document.id: document.text for document in data.corpus}
        for query in data.queries:
            keys.append((part, query.id))
            answers = [("document", texts[key]) for key in data.qrels[query.id]]
            labels.append([("transcript", query.transcript), *answers])
            speakers.append(query.speaker)
    return Queries(keys=keys, clusters=Clusters(texts=components(labels), speakers=speakers))


def read_scores(reports: Mapping[str, Path], queries: Queries) -> Scores:
    """Of one report a part, for the systems that all of them have.

    Args:
        reports: folder of the report of each part.
        queries: of the same parts.
    """
    table: dict[tuple[str, int], dict[tuple[str, str], float]] = {}
    for part, folder in reports.items():
        for row in _rows(folder / QUERIES):
            column = table.setdefault((row["system"], row["dim"]), {})
            column[part, row["query"]] = row[METRIC]
    scores: dict[str, dict[int, HostArray]] = {}
    for (system, dim), column in table.items():
        if len(column) == len(queries.keys):
            values = np.asarray([column[key] for key in queries.keys])
            scores.setdefault(system, {})[dim] = values
    return scores


def mean_scores(seeds: Sequence[Scores]) -> Scores:
    """The mean over the seeds, query by query, of the systems that every seed has."""
    systems = [name for name in seeds[0] if all(name in one for one in seeds)]
    return {
        name: {dim: np.mean([one[name][dim] for one in seeds], axis=0) for dim in seeds[0][name]}
        for name in systems
    }


def read_errors(
    reports: Mapping[str, Path], queries: Queries, cascade: str
) -> tuple[Float[HostArray, " Q"], Float[HostArray, " Q"]]:
    """Word errors of each query by the cascade's recogniser, and its words."""
    rows = {
        (part, row["query"]): row
        for part, folder in reports.items()
        for row in _rows(folder / STAGES)
        if row["system"] == cascade
    }
    kinds = ("substitutions", "deletions", "insertions")
    errors = [float(sum(rows[key][kind] for kind in kinds)) for key in queries.keys]
    return np.asarray(errors), np.asarray([float(rows[key]["words"]) for key in queries.keys])


def read_transcripts(reports: Mapping[str, Path], queries: Queries) -> tuple[list[str], list[str]]:
    """References and hypotheses of `eval transcribe`."""
    rows = {
        (part, row["id"]): row
        for part, folder in reports.items()
        for row in _rows(folder / "transcripts.jsonl")
    }
    references, hypotheses = (
        [rows[key][side] for key in queries.keys] for side in ("reference", "hypothesis")
    )
    return references, hypotheses


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
