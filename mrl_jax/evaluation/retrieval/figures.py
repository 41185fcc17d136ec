"""Scores of each dimension, and which dimensions differ: records, tables and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.plotting import dimension_axis, error_bars, figure, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import (
    DIFFERENCE,
    difference_cells,
    mean_text,
    metric_title,
)
from mrl_jax.evaluation.retrieval.measure import Difference
from mrl_jax.evaluation.scoring import RetrievalResult
from mrl_jax.metrics.intervals import Interval

Means = Mapping[tuple[int, str], Interval]
"""(dim, metric) to mean and interval."""


def retrieval_records(
    results: Sequence[RetrievalResult],
    means: Means,
    pairs: Sequence[Difference],
    metric: str,
    setting: Mapping[str, str | int | float],
) -> list[Record]:
    """Every metric at every dimension, over all orders of ties, and the differences."""
    rows = []
    for result in results:
        for name, values in result.per_query.items():
            fields: dict[str, Any] = {"dim": result.dim, "n": len(values), "setting": setting}
            rows.append(Record.of(name, means[result.dim, name], **fields))
            orders = zip(("worst", "expected", "best"), result.over_ties(name), strict=True)
            rows += [
                Record(metric=f"{name} over ties, {order}", value=value, **fields)
                for order, value in orders
            ]
    n, name = len(results[0].per_query[metric]), f"{metric} difference"
    for pair in pairs:
        tested = {"p_value": pair.test.p_value, "p_adjusted": pair.p_adjusted}
        tested = {**setting, "other_dim": pair.other, **tested}
        rows.append(Record.of(name, pair.test, dim=pair.dim, n=n, setting=tested))
    return rows


def headline_table(means: Means, names: Sequence[str], *, chance: float, metric: str) -> Table:
    """One row a dimension, values with their intervals, chance in the last column."""
    rows = [
        [str(dim), *(mean_text(means[dim, name]) for name in names), f"{chance:.4f}"]
        for dim in dict.fromkeys(dim for dim, _ in means)
    ]
    header = ["dimension", *map(metric_title, names), f"{metric_title(metric)} of chance"]
    return Table(header, rows)


def all_metrics_table(means: Means) -> Table:
    """One row a metric, one column a dimension."""
    dims = list(dict.fromkeys(dim for dim, _ in means))
    rows = [
        [metric_title(name), *(f"{means[dim, name].mean:.4f}" for dim in dims)]
        for name in dict.fromkeys(name for _, name in means)
    ]
    return Table(["metric", *map(str, dims)], rows)


def differences_table(pairs: Sequence[Difference]) -> Table:
    """One row a pair of dimensions."""
    rows = [[f"{p.dim} - {p.other}", *difference_cells(p.test, p.p_adjusted)] for p in pairs]
    return Table(["dimensions", *DIFFERENCE], rows)


def ties_table(results: Sequence[RetrievalResult], metric: str) -> Table:
    """One row a dimension: a metric in the order used, and over all orders of ties."""
    rows = [
        [str(result.dim), *(f"{x:.4f}" for x in (result.means[metric], *result.over_ties(metric)))]
        for result in results
    ]
    return Table(["dimension", metric_title(metric), "worst", "expected", "best"], rows)


def plot_dimensions(path: Path, means: Means, metric: str, *, chance: float) -> None:
    """A metric against dimension with its intervals, and chance as a line."""
    drawing, axes = figure()
    dims = sorted(dim for dim, name in means if name == metric)
    label = "queries → corpus, 95 % interval"
    error_bars(axes, dims, [means[dim, metric] for dim in dims], fmt="o-", capsize=3, label=label)
    axes.axhline(chance, color="grey", linestyle=":", label=f"chance, {chance:.4f}")
    dimension_axis(axes, dims)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel(metric_title(metric))
    axes.legend(fontsize="small", frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    save(drawing, path)


def plot_differences(path: Path, pairs: Sequence[Difference], metric: str) -> None:
    """What each dimension loses beside the widest, with intervals."""
    widest = max(pair.other for pair in pairs)
    chosen = sorted((p for p in pairs if p.other == widest), key=lambda pair: pair.dim)
    drawing, axes = figure()
    dims = [pair.dim for pair in chosen]
    error_bars(axes, dims, [pair.test for pair in chosen], fmt="o", capsize=3)
    axes.axhline(0, color="grey", linewidth=1)
    dimension_axis(axes, dims)
    axes.margins(x=0.15)
    axes.set_ylabel(f"{metric_title(metric)} minus that of {widest}")
    save(drawing, path)
