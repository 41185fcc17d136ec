"""Retrieval quality at every dimension, from one encoding."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.data.sets.retrieval_set import RetrievalSet
from mrl_jax.inference.search.exact import exact_scores, rank, truncate
from mrl_jax.inference.search.vectors import SeparateVectors, Vectors, numbers_of
from mrl_jax.metrics import ranking as metrics
from mrl_jax.metrics.ties import METRICS, TiedRanking

KS = (1, 5, 10)
Ties = Literal["trec", "id"]
"""Documents of equal score by descending id, as trec_eval has them, or by ascending id."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """Rankings and scores at one dimension.

    Attributes:
        per_query: "ndcg@10", say, to one value a judged query.
        ranking: [Q, k] indices into the corpus, best first, for every query.
        scores: [Q, k] cosines.
        tied: the rankings of the judged queries, for metrics over all orders of ties.
    """

    dim: int
    per_query: Mapping[str, Float[HostArray, " judged"]]
    ranking: Int[HostArray, "Q k"]
    scores: Float32[HostArray, "Q k"]
    tied: TiedRanking

    @property
    def means(self) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in self.per_query.items()}

    def over_ties(self, name: str) -> tuple[float, float, float]:
        """Mean of "ndcg@10", say, in the worst order of ties, over all orders, in the best."""
        metric, _, k = name.partition("@")
        ways = (self.tied.worst, self.tied.expected, self.tied.best)
        worst, expected, best = (float(np.mean(way(metric, int(k)))) for way in ways)
        return worst, expected, best


@dataclasses.dataclass(frozen=True)
class Judgements:
    """Relevance of a corpus to queries: ids in the order of the vectors.

    `qrels` are query id to document id to grade; documents that are not in the corpus count
    among the relevant ones, and are never retrieved.
    """

    query_ids: Sequence[str]
    document_ids: Sequence[str]
    qrels: Mapping[str, Mapping[str, int]]

    @property
    def judged(self) -> list[int]:
        """Queries with at least one relevant document: those that scores are means over."""
        rows = [
            row
            for row, query in enumerate(self.query_ids)
            if any(grade > 0 for grade in self.qrels.get(query, {}).values())
        ]
        if not rows:
            raise MrlError("no query has a relevant document", hint="check the qrels")
        return rows

    def grades(self) -> Int[HostArray, "judged J"]:
        """All grades of each judged query, filled with zeros."""
        return _filled([list(self.qrels[self.query_ids[row]].values()) for row in self.judged])

    def grades_by_row(self) -> list[dict[int, int]]:
        """Of each judged query, row in the corpus to grade, of the documents that are there."""
        row_of = {key: row for row, key in enumerate(self.document_ids)}
        judged = (self.qrels[self.query_ids[row]] for row in self.judged)
        return [{row_of[key]: g for key, g in of.items() if key in row_of} for of in judged]

    def binary(self) -> "Judgements":
        """The same with every grade above 0 counted as 1."""
        qrels = {q: {d: min(g, 1) for d, g in of.items()} for q, of in self.qrels.items()}
        return dataclasses.replace(self, qrels=qrels)

    def chance(self, k: int = 10) -> float:
        """Mean nDCG at k of a random order."""
        there = _filled([list(of.values()) for of in self.grades_by_row()])
        return metrics.chance_ndcg(self.grades(), len(self.document_ids), k, there=there)


@checked
def evaluate_retrieval(
    queries: Float32[HostArray, "Q E"] | SeparateVectors,
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    *,
    dims: Sequence[int],
    ks: Sequence[int] = KS,
    ties: Ties = "trec",
) -> list[RetrievalResult]:
    """Scores of every prefix, each re-normalised, in the order of `dims`.

    Args:
        queries, documents: vectors in the order of the judgements' ids. Where queries have
            a vector for each dim, it is searched among the documents' prefixes.
        judgements: what is relevant.
        dims: widths of the prefixes.
        ks: ranks that every metric is cut at.
        ties: which of two documents of equal score stands first.

    Raises:
        MrlError: a dim above the width of the vectors; a vector that is not finite.
    """
    if ties not in get_args(Ties):
        raise ArgumentError(f"ties is {ties!r}, expected one of {', '.join(get_args(Ties))}")
    check_dims(dims, queries.shape[1])
    _check_finite("query", queries, judgements.query_ids)
    _check_finite("document", documents, judgements.document_ids)
    ids, judged = judgements.document_ids, judgements.judged
    order = sorted(range(len(ids)), key=lambda i: ids[i], reverse=ties == "trec")
    order = np.asarray(order, np.int64)
    place_of = np.argsort(order)
    of_query = judgements.grades_by_row()
    rows = np.repeat(np.arange(len(judged)), [len(some) for some in of_query])
    columns = place_of[np.asarray([row for some in of_query for row in some], np.int64)]
    grades = np.asarray([g for of in of_query for g in of.values()], np.int64)
    all_grades = judgements.grades()
    results = []
    for dim in dims:
        own, corpus = truncate(queries, dim), truncate(documents, dim)[order]
        ranked = rank(own, corpus, max(ks))
        scores, places = ranked.scores[judged], ranked.indices[judged]
        # Every judged document: where it is in the list, or that it ties with the list's end.
        match = places[rows] == columns[:, None]
        at, listed = match.argmax(axis=1), match.any(axis=1)
        in_order = np.zeros(scores.shape, np.int64)
        in_order[rows[listed], at[listed]] = grades[listed]
        own = own[judged]
        behind = ~listed & (exact_scores(own[rows], corpus[columns]) == scores[rows, -1])
        ends = np.searchsorted(rows[behind], np.arange(1, len(judged)))
        beyond = _filled([part.tolist() for part in np.split(grades[behind], ends)])
        tied = TiedRanking(in_order, scores, beyond, ranked.tied[judged], all_grades)
        per_query = {
            f"{name}@{k}": metric.function(in_order, all_grades, k)
            for name, metric in METRICS.items()
            for k in ks
        }
        ranking, scores = order[ranked.indices], ranked.scores
        results.append(
            RetrievalResult(dim=dim, per_query=per_query, ranking=ranking, scores=scores, tied=tied)
        )
    return results


@checked
def judgements_of(data: RetrievalSet) -> Judgements:
    """The qrels of a retrieval set, in the order of its queries and documents."""
    return Judgements(
        [query.id for query in data.queries], [doc.id for doc in data.corpus], data.qrels
    )


@checked
def check_dims(dims: Sequence[int], width: int, *, where: str | None = None) -> None:
    """Raises an `MrlError` for a dim that the vectors do not have, or that is there twice."""
    for place, dim in enumerate(dims):
        if not 1 <= dim <= width:
            raise MrlError(
                f"the dimension {dim} is not of this model, expected 1 to {width}",
                where=where,
                hint=f"leave {dim} out of --dims",
            )
        if dim in dims[:place]:
            raise MrlError(f"the dimension {dim} is there twice", where=where, hint="name it once")


def _check_finite(kind: str, vectors: Vectors, ids: Sequence[str]) -> None:
    if len(vectors) != len(ids):
        raise ArgumentError(f"{len(vectors)} vectors of {len(ids)} ids: {kind}")
    finite = np.isfinite(numbers_of(vectors)).all(axis=1)
    if not finite.all():
        raise MrlError(
            f"the vector of {kind} {ids[int(np.argmin(finite))]!r} is not finite "
            f"({int(np.sum(~finite))} of {len(ids)} are not)",
            hint="check the model's weights and the input: NaN and infinity cannot be ranked",
        )


def _filled(lists: Sequence[Sequence[int]]) -> Int[HostArray, "R J"]:
    filled = np.zeros((len(lists), max(map(len, lists), default=0)), np.int64)
    for row, values in enumerate(lists):
        filled[row, : len(values)] = values
    return filled
