"""What a recogniser's errors do to retrieval: hypotheses against reference transcripts."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import (
    difference_cells,
    intervals_of,
    mean_text,
    metric_title,
    paired_difference,
)
from mrl_jax.metrics.error_rates import Comparison
from mrl_jax.metrics.intervals import Clusters, Interval, PairedTest

METRIC = "ndcg@10"
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

    def tests(self) -> dict[int, PairedTest]:
        """What recognition adds to the score at each dim: below 0 where it costs."""
        return {
            dim: paired_difference(values, self.true[dim], self.clusters)
            for dim, values in self.recognised.items()
        }

    def true_means(self) -> dict[int, Interval]:
        """Mean from the true transcripts at each dim."""
        intervals = intervals_of(list(self.true.values()), self.clusters)
        return dict(zip(self.true, intervals, strict=True))

    def buckets(self) -> dict[str, Bool[HostArray, " Q"]]:
        """Which queries are in each bucket; empty ones are left out."""
        rates = np.asarray([one.rate for one in self.errors.words])
        place = np.searchsorted(EDGES, rates, side="left")
        buckets = {name: place == number for number, name in enumerate(BUCKETS)}
        return {name: rows for name, rows in buckets.items() if rows.any()}


def propagation_records(measured: Propagation, name: str) -> list[Record]:
    """Scores from true transcripts, what is lost, and both in each bucket at the widest dim."""
    setting, n = {"system": name}, len(measured.clusters.texts)
    rows = [
        Record.of(f"{METRIC} from {TRUE}", mean, dim=dim, n=n, setting=setting)
        for dim, mean in measured.true_means().items()
    ]
    for dim, test in measured.tests().items():
        tested = {**setting, "p_value": test.p_value}
        metric = f"{METRIC} less that from {TRUE}"
        rows.append(Record.of(metric, test, dim=dim, n=n, setting=tested))
    widest = max(measured.recognised)
    return rows + [
        Record(
            metric=f"{METRIC}{source}, by wer",
            dim=widest,
            value=float(np.mean(scores[widest][chosen])),
            n=int(chosen.sum()),
            setting={**setting, "wer": bucket},
        )
        for bucket, chosen in measured.buckets().items()
        for source, scores in (("", measured.recognised), (f" from {TRUE}", measured.true))
    ]


def cost_of_recognition_table(measured: Propagation, means: Mapping[int, Interval]) -> Table:
    """One row a dimension: from the recogniser's transcripts, from the true ones, and between.

    Args:
        measured: of a cascade.
        means: of the cascade at each dimension.
    """
    true = measured.true_means()
    rows = [
        [str(dim), mean_text(means[dim]), mean_text(true[dim]), *difference_cells(test)]
        for dim, test in measured.tests().items()
    ]
    name = metric_title(METRIC)
    return Table(["dimension", name, f"{name} from {TRUE}", "difference", "95 %", "p"], rows)


def bucket_table(measured: Propagation) -> Table:
    """One row a bucket of word error rates, at the widest dimension."""
    widest = max(measured.recognised)
    rows = []
    for bucket, chosen in measured.buckets().items():
        own, true = (
            float(np.mean(scores[widest][chosen]))
            for scores in (measured.recognised, measured.true)
        )
        rows.append(
            [bucket, str(int(chosen.sum())), f"{own:.4f}", f"{true:.4f}", f"{own - true:+.4f}"]
        )
    name = f"{metric_title(METRIC)} at {widest}"
    return Table(["WER of a query", "queries", name, f"{name} from {TRUE}", "difference"], rows)


def answer_rank(ranking: Sequence[int], relevant: Sequence[int]) -> int | None:
    """Place of the first relevant document in a ranking, from 1; None where none is in it."""
    wanted = set(relevant)
    return next((place for place, row in enumerate(ranking, 1) if int(row) in wanted), None)
