"""How sure the score of each dimension is, and which dimensions differ: records and pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.evaluation.report.page import figure, markdown_table, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.scoring import RetrievalResult
from mrl_jax.metrics.intervals import (
    Clusters,
    Interval,
    PairedTest,
    cluster_bootstraps,
    holm,
    paired_test,
)

NAMES = {"ndcg": "nDCG", "accuracy": "accuracy", "mrr": "MRR", "map": "MAP", "recall": "recall"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One dimension beside another on the same queries.

    Attributes:
        dim, other: the two; the score of `other` is taken from that of `dim`.
        test: of the difference.
        p_adjusted: by Holm, for the number of pairs.
    """

    dim: int
    other: int
    test: PairedTest
    p_adjusted: float


def intervals(
    results: Sequence[RetrievalResult], clusters: Clusters
) -> dict[tuple[int, str], Interval]:
    """(dim, metric) → mean and interval, all from the same resamples."""
    keys = [(result.dim, name) for result in results for name in result.per_query]
    columns = [values for result in results for values in result.per_query.values()]
    found = cluster_bootstraps(np.stack(columns, axis=1), clusters.texts, crossed=clusters.speakers)
    return dict(zip(keys, found, strict=True))


def differences(
    results: Sequence[RetrievalResult], clusters: Clusters, metric: str
) -> list[Difference]:
    """Each dimension beside the next wider one, and beside the widest."""
    values = {result.dim: result.per_query[metric] for result in results}
    dims = sorted(values, reverse=True)
    pairs = list(zip(dims[1:], dims, strict=False))
    pairs += [(dim, dims[0]) for dim in dims[2:]]
    tests = [
        paired_test(values[a], values[b], clusters.texts, crossed=clusters.speakers)
        for a, b in pairs
    ]
    adjusted = holm([test.p_value for test in tests])
    return [
        Difference(dim=a, other=b, test=test, p_adjusted=p)
        for (a, b), test, p in zip(pairs, tests, adjusted, strict=True)
    ]


def comparison_records(
    results: Sequence[RetrievalResult],
    means: Mapping[tuple[int, str], Interval],
    pairs: Sequence[Difference],
    metric: str,
    setting: Mapping[str, str | int | float],
) -> list[Record]:
    """Every metric at every dimension, over all orders of ties, and the differences."""
    rows = []
    for result in results:
        for name, values in result.per_query.items():
            mean, n = means[result.dim, name], len(values)
            rows.append(
                Record(
                    metric=name,
                    dim=result.dim,
                    value=mean.mean,
                    n=n,
                    low=mean.low,
                    high=mean.high,
                    setting=setting,
                )
            )
            for order, value in zip(
                ("worst", "expected", "best"), result.over_ties(name), strict=True
            ):
                told = f"{name} over ties, {order}"
                rows.append(Record(metric=told, dim=result.dim, value=value, n=n, setting=setting))
    for pair in pairs:
        rows.append(
            Record(
                metric=f"{metric} difference",
                dim=pair.dim,
                value=pair.test.difference,
                n=len(results[0].per_query[metric]),
                low=pair.test.low,
                high=pair.test.high,
                setting={
                    **setting,
                    "other_dim": pair.other,
                    "p_value": pair.test.p_value,
                    "p_adjusted": pair.p_adjusted,
                },
            )
        )
    return rows


def title(name: str) -> str:
    """ "nDCG@10" of "ndcg@10"."""
    metric, _, k = name.partition("@")
    return f"{NAMES[metric]}@{k}"


def headline_table(
    means: Mapping[tuple[int, str], Interval],
    names: Sequence[str],
    *,
    chance: float,
    metric: str,
) -> str:
    """One row a dimension, values with their intervals, chance in the last column."""
    dims = list(dict.fromkeys(dim for dim, _ in means))
    rows = [
        [str(dim), *(with_interval(means[dim, name]) for name in names), f"{chance:.4f}"]
        for dim in dims
    ]
    return markdown_table(["dimension", *map(title, names), f"{title(metric)} of chance"], rows)


def all_metrics_table(means: Mapping[tuple[int, str], Interval]) -> str:
    """One row a metric, one column a dimension."""
    dims = list(dict.fromkeys(dim for dim, _ in means))
    names = list(dict.fromkeys(name for _, name in means))
    rows = [[title(name), *(f"{means[dim, name].mean:.4f}" for dim in dims)] for name in names]
    return markdown_table(["metric", *map(str, dims)], rows)


def differences_table(pairs: Sequence[Difference]) -> str:
    """One row a pair of dimensions."""
    rows = [
        [
            f"{pair.dim} - {pair.other}",
            f"{pair.test.difference:+.4f}",
            f"{pair.test.low:+.4f} to {pair.test.high:+.4f}",
            p_text(pair.test.p_value),
            p_text(pair.p_adjusted),
        ]
        for pair in pairs
    ]
    return markdown_table(["dimensions", "difference", "95 %", "p", "p, adjusted"], rows)


def ties_table(results: Sequence[RetrievalResult], metric: str) -> str:
    """One row a dimension: a metric in the order used, and over all orders of ties."""
    rows = [
        [str(result.dim), *(f"{x:.4f}" for x in (result.means[metric], *result.over_ties(metric)))]
        for result in results
    ]
    return markdown_table(["dimension", title(metric), "worst", "expected", "best"], rows)


def plot_dimensions(
    path: Path, means: Mapping[tuple[int, str], Interval], metric: str, *, chance: float
) -> None:
    """A metric against dimension with its intervals, and chance as a line."""
    made, axes = figure()
    dims = sorted(dim for dim, name in means if name == metric)
    found = [means[dim, metric] for dim in dims]
    axes.errorbar(
        dims,
        [one.mean for one in found],
        yerr=[[one.mean - one.low for one in found], [one.high - one.mean for one in found]],
        fmt="o-",
        capsize=3,
        label="queries → corpus, 95 % interval",
    )
    axes.axhline(chance, color="grey", linestyle=":", label=f"chance, {chance:.4f}")
    dimension_axis(axes, dims)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel(title(metric))
    axes.legend(fontsize="small", frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    save(made, path)


def plot_differences(path: Path, pairs: Sequence[Difference], metric: str) -> None:
    """What each dimension loses beside the widest, with intervals."""
    widest = max(pair.other for pair in pairs)
    chosen = sorted((p for p in pairs if p.other == widest), key=lambda pair: pair.dim)
    made, axes = figure()
    dims = [pair.dim for pair in chosen]
    tests = [pair.test for pair in chosen]
    axes.errorbar(
        dims,
        [test.difference for test in tests],
        yerr=[[t.difference - t.low for t in tests], [t.high - t.difference for t in tests]],
        fmt="o",
        capsize=3,
    )
    axes.axhline(0, color="grey", linewidth=1)
    dimension_axis(axes, dims)
    axes.margins(x=0.15)
    axes.set_ylabel(f"{title(metric)} minus that of {widest}")
    save(made, path)


def dimension_axis(axes: Any, dims: Sequence[int]) -> None:
    """Dimensions as equal steps, each by its own number."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.minorticks_off()
    axes.set_xlabel("dimension (prefix of the embedding)")


def with_interval(interval: Interval) -> str:
    """A mean and its interval, where it has one."""
    if np.isnan(interval.low):
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.2f} to {interval.high:.2f})"


def p_text(value: float) -> str:
    """A p-value to three digits."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
