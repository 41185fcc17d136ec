"""The relevance judgements of a retrieval set, as trec_eval counts them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets import tables
from mrl_jax.data.sets.issues import IssueLog
from mrl_jax.data.sets.set_tables import set_rows

Qrels = Mapping[str, Mapping[str, int]]
"""Query id → document id → grade; 0 is not relevant, more is better."""

MAX_SCORE = 1_000_000
"""The highest grade of a judgement: far above any in use, far below what counts overflow at."""


def read_qrels(
    folder: Path,
    queries: Collection[str],
    documents: Collection[str],
    *,
    log: IssueLog,
    split: str | None = None,
) -> Qrels:
    """The judgements of the queries that there are.

    Those of documents that the corpus does not have are kept: they cannot be retrieved, and
    count among the relevant ones, as in trec_eval. Negative grades are 0.

    Args:
        folder: of the set.
        queries, documents: all ids of the other two tables.
        log: gets judgements that name no query or document, are negative or repeated.
        split: as `set_rows`.

    Raises:
        MrlError: a row without its ids; a grade that is no whole number or above `MAX_SCORE`;
            no query has a relevant document in the corpus.
    """
    qrels: dict[str, dict[str, int]] = {}
    negative: list[str] = []
    for where, row in set_rows(folder, "qrels", split=split, log=log):
        query, document = (tables.row_id(where, row, f"{kind}-id") for kind in ("query", "corpus"))
        score = _score(where, row.get("score", 1))
        scores, pair = qrels.setdefault(query, {}), f"{query} {document}"
        if document in scores:
            alike = "alike" if scores[document] == max(score, 0) else "differently"
            log.add(f"judgements given twice, {alike}, of which the last counts", [pair])
        if score < 0:
            negative.append(pair)
        scores[document] = max(score, 0)
    log.add("negative judgements, which count as 0", negative, harmless=True)
    unknown = [key for key in qrels if key not in queries]
    log.add("qrels names query-ids that queries does not have", unknown)
    qrels = {key: scores for key, scores in qrels.items() if key in queries}
    judged = dict.fromkeys(document for scores in qrels.values() for document in scores)
    absent = [key for key in judged if key not in documents]
    log.add("qrels names corpus-ids that corpus does not have", absent)
    relevant = {key for scores in qrels.values() for key, score in scores.items() if score}
    if relevant.isdisjoint(documents):
        told = "".join(f"; {issue}" for issue in log.issues)
        problem = f"no query has a relevant document{' in the corpus' if relevant else ''}{told}"
        hint = "give some judgement a score above 0, and the ids of the other tables"
        raise MrlError(problem, where=folder / "qrels", hint=hint)
    return MappingProxyType({query: MappingProxyType(scores) for query, scores in qrels.items()})


def _score(where: str, value: Any) -> int:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not (number <= MAX_SCORE and number.is_integer()):
        problem = f"`score` is {value!r:.40}, expected a whole number up to {MAX_SCORE:,}"
        hint = "0 is not relevant, 1 relevant, and more is better"
        raise MrlError(problem, where=where, hint=hint)
    return int(number)
