"""The stages of cascades: each query's words, and what recognition errors cost."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.evaluation.compare.cascades import CascadeRun
from mrl_jax.evaluation.compare.measure import Task
from mrl_jax.evaluation.compare.systems import METRIC, Means, System
from mrl_jax.evaluation.report import statistics
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.transcribe.figures import error_table
from mrl_jax.evaluation.transcribe.measure import error_columns, error_records
from mrl_jax.metrics.error_rates import Comparison
from mrl_jax.metrics.intervals import Clusters, Interval, PairedTest

STAGES = "stages.jsonl"
NOTE = """A cascade's milliseconds and parameters are those of recogniser, translator and text
tower together; one that takes a column of transcripts counts neither for what wrote them.
A translator runs on the CPU, and CTranslate2 counts neither its parameters nor its FLOPs. An
empty transcript is embedded as an empty text. {file} has each query's words at every stage."""
TRUE = "true transcripts"
EDGES = (0.0, 0.25, 0.5)
BUCKETS = ("0 %", "0 to 25 %", "25 to 50 %", "above 50 %")
"""Word error rate of a query; each bucket holds its upper end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Propagation:
    """nDCG@10 of one cascade from its recogniser's transcripts, and from the true ones.

    Attributes:
        recognised, true: dim to one value a query.
        errors: of the recogniser, query by query.
        clusters: what queries share.
    """

    recognised: Mapping[int, Float[HostArray, " Q"]]
    true: Mapping[int, Float[HostArray, " Q"]]
    errors: Comparison
    clusters: Clusters

    @functools.cached_property
    def tests(self) -> dict[int, PairedTest]:
        """What recognition adds to the score at each dim: below 0 where it costs."""
        return {
            dim: statistics.paired_difference(values, self.true[dim], self.clusters)
            for dim, values in self.recognised.items()
        }

    @functools.cached_property
    def true_means(self) -> dict[int, Interval]:
        """Mean from the true transcripts at each dim."""
        intervals = statistics.intervals_of(list(self.true.values()), self.clusters)
        return dict(zip(self.true, intervals, strict=True))

    @property
    def buckets(self) -> list[tuple[str, int, float, float]]:
        """Name, queries, and both scores at the widest dim of each bucket that has queries."""
        rates = np.asarray([one.rate for one in self.errors.words])
        place, widest = np.searchsorted(EDGES, rates, side="left"), max(self.recognised)
        own, true = self.recognised[widest], self.true[widest]
        return [
            (name, int(rows.sum()), float(np.mean(own[rows])), float(np.mean(true[rows])))
            for name, rows in ((name, place == number) for number, name in enumerate(BUCKETS))
            if rows.any()
        ]


def propagation_records(measured: Propagation, name: str) -> list[Record]:
    """Scores from true transcripts, what is lost, and both in each bucket at the widest dim."""
    setting, n = {"system": name}, len(measured.clusters.texts)
    rows = [
        Record.of(f"{METRIC} from {TRUE}", mean, dim=dim, n=n, setting=setting)
        for dim, mean in measured.true_means.items()
    ]
    for dim, test in measured.tests.items():
        tested = {**setting, "p_value": test.p_value}
        metric = f"{METRIC} less that from {TRUE}"
        rows.append(Record.of(metric, test, dim=dim, n=n, setting=tested))
    widest = max(measured.recognised)
    for bucket, count, *scores in measured.buckets:
        of = {**setting, "wer": bucket}
        for source, value in zip(("", f" from {TRUE}"), scores, strict=True):
            metric = f"{METRIC}{source}, by wer"
            rows.append(Record(metric=metric, value=value, dim=widest, n=count, setting=of))
    return rows


def cost_of_recognition_table(measured: Propagation, means: Mapping[int, Interval]) -> Table:
    """One row a dim: from the recogniser's transcripts (`means`), the true ones, and between."""
    rows = [
        [
            str(dim),
            *map(statistics.mean_text, (means[dim], measured.true_means[dim])),
            *statistics.difference_cells(test),
        ]
        for dim, test in measured.tests.items()
    ]
    name = statistics.metric_title(METRIC)
    return Table(["dimension", name, f"{name} from {TRUE}", *statistics.DIFFERENCE[:3]], rows)


def bucket_table(measured: Propagation) -> Table:
    """One row a bucket of word error rates, at the widest dimension."""
    rows = [
        [bucket, str(count), f"{own:.4f}", f"{true:.4f}", f"{own - true:+.4f}"]
        for bucket, count, own, true in measured.buckets
    ]
    name = f"{statistics.metric_title(METRIC)} at {max(measured.recognised)}"
    return Table(["WER of a query", "queries", name, f"{name} from {TRUE}", "difference"], rows)


def answer_rank(ranking: Sequence[int], relevant: Sequence[int]) -> int | None:
    """Place of the first relevant document in a ranking, from 1; None where none is in it."""
    wanted = set(relevant)
    return next((place for place, row in enumerate(ranking, 1) if int(row) in wanted), None)


def stages_summary(systems: Sequence[System], task: Task) -> str:
    """What a reader must know of the cascades among the systems; "" without any."""
    parts, known = [], all(query.transcript for query in task.data.queries)
    for one in systems:
        if one.run is None:
            continue
        empty = sum(not text.strip() for text in one.run.stages.transcripts)
        if empty:
            parts.append(f"{one.name}: the transcript of {empty} queries is empty.")
        if one.run.true is None:
            why = "some queries have no transcript in the set"
            why = "its transcripts are the true ones" if known else why
            parts.append(f"{one.name}: recognition errors are not counted, as {why}.")
    cascades = any(one.run is not None for one in systems)
    return "\n\n".join(["", NOTE.format(file=STAGES), *parts]) if cascades else ""


def stage_rows(systems: Sequence[System], task: Task) -> list[dict[str, object]]:
    """One object a cascade and query, for stages.jsonl."""
    return [
        _row(one.name, one.run, task, place)
        for one in systems
        if one.run is not None
        for place in range(len(task.data.queries))
    ]


def stage_tables(
    systems: Sequence[System], means: Means, clusters: Clusters
) -> tuple[dict[str, Table], list[Record]]:
    """Error rates, their cost, and scores by error rate of every cascade; and the records."""
    tables: dict[str, Table] = {}
    records: list[Record] = []
    for one in systems:
        run, name = one.run, one.name
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
