"""Trained systems side by side on the same queries: scores, costs, paired tests, a picture.

A system is what one made of a retrieval set, whatever it is made of: its values for each
query, and what it costs. So one that is no model of this library (a recogniser and a
translator before a text tower, say) is compared by making a `System` of its own.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.evaluation.report.page import figure, markdown_table, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.retrieval.tables import dimension_axis, p_text, title, with_interval
from mrl_jax.metrics.intervals import (
    Clusters,
    Interval,
    PairedTest,
    cluster_bootstraps,
    holm,
    paired_test,
)

METRIC = "ndcg@10"


METRICS = ("ndcg@5", METRIC)


MARKERS = "osD^vP*X"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a system costs.

    Attributes:
        parameters: of all its parts; NaN where nobody counted.
        trained: those of them that training changed.
        seconds: to embed one query, see `time_query`.
        flops: floating-point operations to embed one query; NaN where nobody counted.
    """

    parameters: int | float
    trained: int
    seconds: float
    flops: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """One system on a set.

    Attributes:
        name: what it is called.
        kind: what it is, in a few words.
        scores: dim to metric ("ndcg@10" and others) to one value a judged query, in the
            order that all systems have.
        cost: per query.
    """

    name: str
    kind: str
    scores: Mapping[int, Mapping[str, Float[HostArray, " Q"]]]
    cost: Cost


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemDifference:
    """One system beside another at one dimension.

    Attributes:
        name, other: the two; the score of `other` is taken from that of `name`.
        dim: that both are searched at.
        test: of the difference in nDCG@10.
        p_adjusted: by Holm, for all pairs and dimensions of the comparison.
    """

    name: str
    other: str
    dim: int
    test: PairedTest
    p_adjusted: float


Means = Mapping[tuple[str, int, str], Interval]
"""(system, dim, metric) to mean and interval."""


def system_means(systems: Sequence[System], clusters: Clusters) -> Means:
    """Every metric of every system at every dimension, all from the same resamples.

    Raises:
        ValueError: two systems of one name, or with other dims, metrics or queries.
    """
    keys = [
        (system.name, dim, metric)
        for system in systems
        for dim, values in system.scores.items()
        for metric in values
    ]
    shapes = {
        tuple((dim, metric, len(v)) for dim, of in s.scores.items() for metric, v in of.items())
        for s in systems
    }
    if len(set(keys)) != len(keys) or len(shapes) != 1:
        raise ValueError("systems must have different names, and the same dims, metrics, queries")
    columns = [v for s in systems for values in s.scores.values() for v in values.values()]
    found = cluster_bootstraps(np.stack(columns, axis=1), clusters.texts, crossed=clusters.speakers)
    return dict(zip(keys, found, strict=True))


def system_differences(systems: Sequence[System], clusters: Clusters) -> list[SystemDifference]:
    """nDCG@10 of every two systems at every dimension, on the same queries."""
    pairs = [
        (dim, one, other)
        for dim in (systems[0].scores if systems else ())
        for one, other in itertools.combinations(systems, 2)
    ]
    tests = [
        paired_test(
            one.scores[dim][METRIC],
            other.scores[dim][METRIC],
            clusters.texts,
            crossed=clusters.speakers,
        )
        for dim, one, other in pairs
    ]
    adjusted = holm([test.p_value for test in tests])
    return [
        SystemDifference(name=one.name, other=other.name, dim=dim, test=test, p_adjusted=p)
        for (dim, one, other), test, p in zip(pairs, tests, adjusted, strict=True)
    ]


def bytes_of(dim: int) -> int:
    """What a stored document takes in float32."""
    return 4 * dim


def system_records(
    systems: Sequence[System], means: Means, pairs: Sequence[SystemDifference]
) -> list[Record]:
    """Scores, costs and differences; the entry `system` of a record says whose they are."""
    rows = []
    for (name, dim, metric), mean in means.items():
        n = next(len(s.scores[dim][metric]) for s in systems if s.name == name)
        setting = {"system": name}
        rows.append(
            Record(
                metric=metric,
                value=mean.mean,
                dim=dim,
                n=n,
                low=mean.low,
                high=mean.high,
                setting=setting,
            )
        )
    for system in systems:
        setting = {"system": system.name, "kind": system.kind}
        for metric, value in (
            ("parameters", system.cost.parameters),
            ("trained parameters", system.cost.trained),
            ("seconds a query", system.cost.seconds),
            ("flops a query", system.cost.flops),
        ):
            rows.append(Record(metric=metric, value=float(value), setting=setting))
        for dim in system.scores:
            value = float(bytes_of(dim))
            rows.append(Record(metric="bytes a document", value=value, dim=dim, setting=setting))
    for pair in pairs:
        rows.append(
            Record(
                metric=f"{METRIC} difference",
                value=pair.test.difference,
                dim=pair.dim,
                n=len(systems[0].scores[pair.dim][METRIC]),
                low=pair.test.low,
                high=pair.test.high,
                setting={
                    "system": pair.name,
                    "other_system": pair.other,
                    "p_value": pair.test.p_value,
                    "p_adjusted": pair.p_adjusted,
                },
            )
        )
    return rows


def score_table(systems: Sequence[System], means: Means, metric: str, *, chance: float) -> str:
    """One row a system, one column a dimension with its bytes, chance in the last row."""
    dims = list(systems[0].scores)
    header = [title(metric), *(f"{dim} ({bytes_of(dim)} bytes)" for dim in dims)]
    rows = [[s.name, *(with_interval(means[s.name, dim, metric]) for dim in dims)] for s in systems]
    return markdown_table(header, [*rows, ["chance", *([f"{chance:.4f}"] * len(dims))]])


def cost_table(systems: Sequence[System]) -> str:
    """One row a system: its kind, parameters, and what a query costs."""
    rows = [
        [
            system.name,
            system.kind,
            _counted(system.cost.parameters, ",.0f"),
            f"{system.cost.trained:,}",
            f"{1000 * system.cost.seconds:.1f}",
            _counted(system.cost.flops, ".3g"),
        ]
        for system in systems
    ]
    return markdown_table(
        ["system", "kind", "parameters", "trained", "ms a query", "FLOPs a query"], rows
    )


def _counted(value: int | float, layout: str) -> str:
    return "unknown" if math.isnan(value) else format(value, layout)


def system_differences_table(pairs: Sequence[SystemDifference]) -> str:
    """One row a pair of systems and dimension."""
    rows = [
        [
            f"{pair.name} - {pair.other}",
            str(pair.dim),
            f"{pair.test.difference:+.4f}",
            f"{pair.test.low:+.4f} to {pair.test.high:+.4f}",
            p_text(pair.test.p_value),
            p_text(pair.p_adjusted),
        ]
        for pair in pairs
    ]
    header = ["systems", "dimension", "difference", "95 %", "p", "p, adjusted"]
    return markdown_table(header, rows)


def plot_systems(path: Path, systems: Sequence[System], means: Means, *, chance: float) -> None:
    """nDCG@10 against dimension, a line a system, with intervals."""
    made, axes = figure(width=6.4, height=4.2)
    dims = sorted(systems[0].scores)
    for place, system in enumerate(systems):
        found = [means[system.name, dim, METRIC] for dim in dims]
        # Apart by a little, so that no interval hides another.
        shift = 2 ** (0.06 * (place - (len(systems) - 1) / 2))
        ends = [[i.mean - i.low for i in found], [i.high - i.mean for i in found]]
        axes.errorbar(
            [dim * shift for dim in dims],
            [interval.mean for interval in found],
            yerr=np.nan_to_num(np.asarray(ends)),
            fmt=f"{MARKERS[place % len(MARKERS)]}-",
            color=f"C{place % 10}",
            capsize=2,
            markersize=5,
            linewidth=1.2,
            elinewidth=0.8,
            label=system.name,
        )
    axes.axhline(chance, color="grey", linestyle=":", label=f"chance, {chance:.4f}")
    dimension_axis(axes, dims)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel(title(METRIC))
    made.legend(loc="outside right center", fontsize="small", frameon=False)
    save(made, path)
