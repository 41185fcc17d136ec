"""Records, tables and figures of the cost-accuracy report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.array_types import HostArray
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.plotting import figure, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.tradeoff.measure import Measured, costs_of, pareto, title
from mrl_jax.inference.search.quantize import PRECISIONS
from mrl_jax.metrics.intervals import Interval

COLOURS = dict(zip(PRECISIONS, ("#1f77b4", "#e08214", "#2a9d4b", "#7b3fa0"), strict=True))


def tradeoff_records(
    results: Sequence[Measured],
    means: Sequence[Interval],
    best: HostArray,
    *,
    size: int,
    chosen: Measured | None,
) -> list[Record]:
    """Five values a search config."""
    rows = []
    for result, mean, member in zip(results, means, best, strict=True):
        config = result.config
        setting: dict[str, str | int | float] = {
            "rank": config.rank or 0,
            "precision": config.precision,
            "prefix": config.prefix or 0,
            "shortlist": config.shortlist,
            "documents": size,
            "pareto": int(member),
            "chosen": int(result is chosen),
        }
        shared: dict[str, Any] = {"dim": config.dim, "setting": setting}
        rows.append(Record.of("ndcg@10", mean, n=len(result.ndcg), **shared))
        values = {"recall of exact@10": result.recall, **costs_by_name(result)}
        rows += [Record(metric=name, value=value, **shared) for name, value in values.items()]
    return rows


def tradeoff_table(
    results: Sequence[Measured], means: Sequence[Interval], best: HostArray, *, only_best: bool
) -> Table:
    """One row a search config, fewest bytes first."""
    columns = ["search config", "nDCG@10", "recall", "bytes", "operations", "latency, ms"]
    measured = zip(results, means, best, strict=True)
    rows = [
        [
            title(one.config) + ("" if only_best or not member else " *"),
            f"{mean.mean:.4f} ({mean.low:.4f} to {mean.high:.4f})",
            f"{one.recall:.3f}",
            *(str(one.bytes), f"{one.flops:.3g}", f"{one.latency_ms:.2f}"),
        ]
        for one, mean, member in sorted(measured, key=lambda m: (m[0].bytes, m[0].latency_ms))
        if member or not only_best
    ]
    return Table(columns, rows)


def plot_tradeoff(
    path: Path, results: Sequence[Measured], *, chosen: Measured | None, size: int
) -> None:
    """nDCG against bytes, and against latency, by precision."""
    drawing, axes = figure(panels=2, width=5.6, height=4.2)
    _panel(axes[0], results, chosen, "bytes", "bytes a document")
    _panel(axes[1], results, chosen, "latency_ms", f"ms a query, {size:,} documents")
    shown = axes[0].get_legend_handles_labels()
    drawing.legend(*shown, loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    save(drawing, path)


def _panel(
    axis: Any, results: Sequence[Measured], chosen: Measured | None, cost: str, label: str
) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for funnel, marker in ((False, "o"), (True, "^")):
        for precision in PRECISIONS:
            points = [
                (getattr(result, cost), result.mean)
                for result in results
                if result.config.precision == precision
                and (result.config.prefix is not None) == funnel
            ]
            if points:
                style = {"c": COLOURS[precision], "s": 26, "alpha": 0.75, "linewidths": 0}
                style["label"] = f"{precision}{', funnel' if funnel else ''}"
                axis.scatter(*zip(*points, strict=True), marker=marker, **style)
    members = pareto(costs_of(results, (cost,)))
    best = [result for result, member in zip(results, members, strict=True) if member]
    best.sort(key=lambda result: getattr(result, cost))
    style = {"color": "black", "linewidth": 1, "drawstyle": "steps-post", "zorder": 0}
    costs = [getattr(result, cost) for result in best]
    axis.plot(costs, [result.mean for result in best], label="best at its cost", **style)
    if chosen is not None:
        style = {"facecolors": "none", "edgecolors": "black", "s": 130, "label": "chosen"}
        axis.scatter([getattr(chosen, cost)], [chosen.mean], **style)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(label)
    axis.set_ylabel("nDCG@10")


def costs_by_name(result: Measured) -> dict[str, float]:
    """What a search config costs, by the names of `COSTS`."""
    return {name: float(getattr(result, name)) for name in ("bytes", "flops", "latency_ms")}
