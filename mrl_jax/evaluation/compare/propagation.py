"""What a recogniser's errors do to retrieval: the same queries heard, and as really said."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.evaluation.report.page import markdown_table
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.retrieval.tables import p_text, title, with_interval
from mrl_jax.metrics.error_rates import Comparison
from mrl_jax.metrics.intervals import (
    Clusters,
    Interval,
    PairedTest,
    cluster_bootstraps,
    paired_test,
)

METRIC = "ndcg@10"


TRUE = "true transcripts"


EDGES = (0.0, 0.25, 0.5)


BUCKETS = ("0 %", "0 to 25 %", "25 to 50 %", "above 50 %")
"""Word error rate of a query; each bucket holds its upper end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Propagation:
    """nDCG@10 of one pipeline from what was heard, and from what was said.

    Attributes:
        heard, true: dim to one value a query.
        errors: of the recogniser, query by query.
        clusters: what queries share.
    """

    heard: Mapping[int, Float[HostArray, " Q"]]
    true: Mapping[int, Float[HostArray, " Q"]]
    errors: Comparison
    clusters: Clusters

    def tests(self) -> dict[int, PairedTest]:
        """What recognition adds to the score at each dim: below 0 where it costs."""
        texts, crossed = self.clusters.texts, self.clusters.speakers
        return {
            dim: paired_test(values, self.true[dim], texts, crossed=crossed)
            for dim, values in self.heard.items()
        }

    def true_means(self) -> dict[int, Interval]:
        """Mean from the true transcripts at each dim."""
        columns = np.stack(list(self.true.values()), axis=1)
        found = cluster_bootstraps(columns, self.clusters.texts, crossed=self.clusters.speakers)
        return dict(zip(self.true, found, strict=True))

    def buckets(self) -> dict[str, Bool[HostArray, " Q"]]:
        """Which queries are in each bucket; empty ones are left out."""
        rates = np.asarray([one.rate for one in self.errors.words])
        place = np.searchsorted(EDGES, rates, side="left")
        found = {name: place == number for number, name in enumerate(BUCKETS)}
        return {name: rows for name, rows in found.items() if rows.any()}


def propagation_records(found: Propagation, name: str) -> list[Record]:
    """Scores from true transcripts, what is lost, and both in each bucket at the widest dim."""
    setting, n, rows = {"system": name}, len(found.clusters.texts), []
    for dim, mean in found.true_means().items():
        rows.append(
            Record(
                metric=f"{METRIC} from {TRUE}",
                dim=dim,
                value=mean.mean,
                n=n,
                low=mean.low,
                high=mean.high,
                setting=setting,
            )
        )
    for dim, test in found.tests().items():
        rows.append(
            Record(
                metric=f"{METRIC} less that from {TRUE}",
                dim=dim,
                value=test.difference,
                n=n,
                low=test.low,
                high=test.high,
                setting={**setting, "p_value": test.p_value},
            )
        )
    widest = max(found.heard)
    for bucket, chosen in found.buckets().items():
        own = {**setting, "wer": bucket}
        for told, scores in (("", found.heard), (f" from {TRUE}", found.true)):
            rows.append(
                Record(
                    metric=f"{METRIC}{told}, by wer",
                    dim=widest,
                    value=float(np.mean(scores[widest][chosen])),
                    n=int(chosen.sum()),
                    setting=own,
                )
            )
    return rows


def cost_of_recognition_table(found: Propagation, means: Mapping[int, Interval]) -> str:
    """One row a dimension: from what was heard, from what was said, and between them.

    Args:
        means: of the pipeline at each dimension.
    """
    true = found.true_means()
    rows = [
        [
            str(dim),
            with_interval(means[dim]),
            with_interval(true[dim]),
            f"{test.difference:+.4f}",
            f"{test.low:+.4f} to {test.high:+.4f}",
            p_text(test.p_value),
        ]
        for dim, test in found.tests().items()
    ]
    name = title(METRIC)
    header = ["dimension", name, f"{name} from {TRUE}", "difference", "95 %", "p"]
    return markdown_table(header, rows)


def bucket_table(found: Propagation) -> str:
    """One row a bucket of word error rates, at the widest dimension."""
    widest = max(found.heard)
    rows = []
    for bucket, chosen in found.buckets().items():
        heard, true = (float(np.mean(v[widest][chosen])) for v in (found.heard, found.true))
        rows.append(
            [bucket, str(int(chosen.sum())), f"{heard:.4f}", f"{true:.4f}", f"{heard - true:+.4f}"]
        )
    name = f"{title(METRIC)} at {widest}"
    header = ["WER of a query", "queries", name, f"{name} from {TRUE}", "difference"]
    return markdown_table(header, rows)


def answer_rank(ranking: Sequence[int], relevant: Sequence[int]) -> int | None:
    """Place of the first relevant document in a ranking, from 1; None where none is in it."""
    wanted = set(relevant)
    return next((place for place, row in enumerate(ranking, 1) if int(row) in wanted), None)
