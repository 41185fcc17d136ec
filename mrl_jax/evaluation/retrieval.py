"""Retrieval quality at every dimension, from one encoding."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mrl_jax import metrics
from mrl_jax.array_types import Float, Float32, HostArray, Int
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.search import search, unit_prefix

METRICS = {"ndcg": metrics.ndcg, "accuracy": metrics.accuracy, "mrr": metrics.reciprocal_rank}
CUTOFFS = {"ndcg": (5, 10), "accuracy": (1, 5, 10), "mrr": (10,)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """What was found at one dimension.

    Attributes:
        dim: width of the prefix.
        per_query: "ndcg@10" and its kin to one value a judged query.
        ranking: [Q, k] indices into the corpus, best first, for every query.
        scores: [Q, k] cosines.
    """

    dim: int
    per_query: Mapping[str, Float[HostArray, " judged"]]
    ranking: Int[HostArray, "Q k"]
    scores: Float32[HostArray, "Q k"]

    @property
    def means(self) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in self.per_query.items()}


@dataclasses.dataclass(frozen=True)
class Judgements:
    """Relevance of a corpus to queries, as arrays.

    Args:
        query_ids: ids in the order of the query vectors.
        document_ids: ids in the order of the document vectors.
        qrels: query id to document id to grade.
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
            raise MrlError("no query has a relevant document", mend="check the qrels")
        return rows

    def grades(self) -> Int[HostArray, "judged J"]:
        """All grades of each judged query, filled with zeros."""
        lists = [list(self.qrels[self.query_ids[row]].values()) for row in self.judged]
        grades = np.zeros((len(lists), max(map(len, lists))), np.int64)
        for row, values in enumerate(lists):
            grades[row, : len(values)] = values
        return grades

    def chance(self, k: int = 10) -> float:
        """Mean nDCG at k of a random order."""
        return metrics.chance_ndcg(self.grades(), len(self.document_ids), k)


def evaluate_retrieval(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    *,
    dims: Sequence[int],
) -> list[RetrievalResult]:
    """Scores of every prefix, each re-normalised, in the order of `dims`.

    Documents of equal score stand in descending order of their ids, as in trec_eval.

    Raises:
        MrlError: a dim above the width of the vectors.
    """
    width = queries.shape[1]
    for dim in dims:
        if not 1 <= dim <= width:
            raise MrlError(
                f"the dimension {dim} is not of this model, expected 1 to {width}",
                mend=f"leave {dim} out of --dims",
            )
    ids, qrels = judgements.document_ids, judgements.qrels
    order = np.asarray(sorted(range(len(ids)), key=lambda i: ids[i], reverse=True), np.int64)
    depth = max(max(cutoffs) for cutoffs in CUTOFFS.values())
    judged, all_grades = judgements.judged, judgements.grades()
    results = []
    for dim in dims:
        scores, places = search(
            unit_prefix(queries, dim), unit_prefix(documents, dim)[order], depth
        )
        ranking = order[places]
        found = np.asarray(
            [
                [qrels[judgements.query_ids[row]].get(ids[int(i)], 0) for i in ranking[row]]
                for row in judged
            ],
            np.int64,
        )
        per_query = {
            f"{name}@{k}": METRICS[name](found, all_grades, k)
            for name, cutoffs in CUTOFFS.items()
            for k in cutoffs
        }
        results.append(
            RetrievalResult(dim=dim, per_query=per_query, ranking=ranking, scores=scores)
        )
    return results
