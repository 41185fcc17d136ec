"""The stages of cascades in a report: each query's words, and what recognition errors cost."""

from collections.abc import Sequence

from mrl_jax.evaluation.compare.cascades import CascadeRun
from mrl_jax.evaluation.compare.measure import Measured, Task
from mrl_jax.evaluation.compare.propagation import (
    METRIC,
    Propagation,
    answer_rank,
    bucket_table,
    cost_of_recognition_table,
    propagation_records,
)
from mrl_jax.evaluation.compare.systems import Means
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.transcribe.figures import error_table
from mrl_jax.evaluation.transcribe.measure import error_columns, error_records
from mrl_jax.metrics.intervals import Clusters

STAGES = "stages.jsonl"
NOTE = """A cascade's milliseconds and parameters are those of recogniser, translator and text
tower together; one that takes a column of transcripts counts neither for what wrote them.
A translator runs on the CPU, and CTranslate2 counts neither its parameters nor its FLOPs. An
empty transcript is embedded as an empty text. {file} has each query's words at every stage."""


def stages_summary(measured: Sequence[Measured], task: Task) -> str:
    """What a reader must know of the cascades among the systems; "" without any."""
    parts, known = [], all(query.transcript for query in task.data.queries)
    for one in measured:
        if one.run is None:
            continue
        name, texts = one.system.name, one.run.stages.transcripts
        empty = sum(not text.strip() for text in texts)
        if empty:
            parts.append(f"{name}: the transcript of {empty} queries is empty.")
        if one.run.true is None:
            why = (
                "its transcripts are the true ones"
                if known
                else "some queries have no transcript in the set"
            )
            parts.append(f"{name}: recognition errors are not counted, as {why}.")
    cascades = any(one.run is not None for one in measured)
    return "\n\n".join(["", NOTE.format(file=STAGES), *parts]) if cascades else ""


def stage_rows(measured: Sequence[Measured], task: Task) -> list[dict[str, object]]:
    """One object a cascade and query, for stages.jsonl."""
    return [
        _row(one.system.name, one.run, task, place)
        for one in measured
        if one.run is not None
        for place in range(len(task.data.queries))
    ]


def stage_tables(
    measured: Sequence[Measured], means: Means, clusters: Clusters
) -> tuple[dict[str, Table], list[Record]]:
    """Error rates, their cost, and scores by error rate of every cascade; and the records."""
    tables: dict[str, Table] = {}
    records: list[Record] = []
    for one in measured:
        run, name = one.run, one.system.name
        if run is None or run.true is None or run.errors is None:
            continue
        rates = error_records(run.errors, clusters, {"system": name})
        propagation = Propagation(
            recognised={result.dim: result.per_query[METRIC] for result in run.stages.results},
            true={result.dim: result.per_query[METRIC] for result in run.true.results},
            errors=run.errors,
            clusters=clusters,
        )
        own = {dim: means[name, dim, METRIC] for dim in propagation.recognised}
        tables[f"{name}: recognition"] = error_table(rates)
        tables[f"{name}: what recognition costs"] = cost_of_recognition_table(propagation, own)
        tables[f"{name}: queries by their word error rate"] = bucket_table(propagation)
        records += [*rates, *propagation_records(propagation, name)]
    return tables, records


def _row(name: str, run: CascadeRun, task: Task, place: int) -> dict[str, object]:
    query, judgements = task.data.queries[place], task.judgements
    grades = judgements.qrels[query.id]
    relevant = [row for row, key in enumerate(judgements.document_ids) if grades.get(key, 0) > 0]
    wide = max(run.stages.results, key=lambda result: result.dim)
    row: dict[str, object] = {
        "system": name,
        "query": query.id,
        "speaker": query.speaker,
        "reference": query.transcript,
        "recognised": run.stages.transcripts[place],
        "translation": run.stages.translations[place],
        "found": task.data.corpus[int(wide.ranking[place, 0])].text,
        "rank": answer_rank(wide.ranking[place].tolist(), relevant),
        METRIC: float(wide.per_query[METRIC][place]),
    }
    if run.true is not None and run.errors is not None:
        wide = max(run.true.results, key=lambda result: result.dim)
        row |= {
            "reference_translation": run.true.translations[place],
            "reference_rank": answer_rank(wide.ranking[place].tolist(), relevant),
            f"reference_{METRIC}": float(wide.per_query[METRIC][place]),
            **error_columns(run.errors, place),
        }
    return row
