"""Records, tables and figures of the cost-accuracy report."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.array_types import HostArray
from mrl_jax.evaluation.report.page import figure, markdown_table, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.tradeoff.measure import Measured, costs_of, pareto, title
from mrl_jax.inference.search.quantize import PRECISIONS
from mrl_jax.metrics.intervals import Interval

COLOURS = dict(zip(PRECISIONS, ("#1f77b4", "#e08214", "#2a9d4b", "#7b3fa0"), strict=True))


def records(
    results: Sequence[Measured],
    means: Sequence[Interval],
    best: HostArray,
    *,
    size: int,
    picked: Measured | None,
) -> list[Record]:
    """Five values a setting."""
    rows = []
    for result, mean, member in zip(results, means, best, strict=True):
        one = result.setting
        setting: dict[str, str | int | float] = {
            "rank": one.rank or 0,
            "precision": one.precision,
            "prefix": one.prefix or 0,
            "shortlist": one.shortlist,
            "documents": size,
            "pareto": int(member),
            "chosen": int(result is picked),
        }
        record = functools.partial(Record, dim=one.dim, setting=setting)
        n = len(result.ndcg)
        rows.append(record(metric="ndcg@10", value=mean.mean, n=n, low=mean.low, high=mean.high))
        rows.append(record(metric="recall of exact@10", value=result.recall))
        rows += [record(metric=name, value=value) for name, value in _costs(result).items()]
    return rows


def tradeoff_table(
    results: Sequence[Measured], means: Sequence[Interval], best: HostArray, *, only_best: bool
) -> str:
    """One row a setting, fewest bytes first."""
    header = ["setting", "nDCG@10", "recall", "bytes", "operations", "latency, ms"]
    rows = [
        (
            result.bytes,
            result.latency_ms,
            [
                title(result.setting) + ("" if only_best or not member else " *"),
                f"{mean.mean:.4f} ({mean.low:.4f} to {mean.high:.4f})",
                f"{result.recall:.3f}",
                str(result.bytes),
                f"{result.flops:.3g}",
                f"{result.latency_ms:.2f}",
            ],
        )
        for result, mean, member in zip(results, means, best, strict=True)
        if member or not only_best
    ]
    return markdown_table(header, [row for *_, row in sorted(rows, key=lambda row: row[:2])])


def plot(path: Path, results: Sequence[Measured], *, picked: Measured | None, size: int) -> None:
    """nDCG against bytes, and against latency, by precision."""
    made, axes = figure(panels=2, width=5.6, height=4.2)
    from matplotlib.ticker import LogLocator, NullFormatter

    panels = (("bytes", "bytes a document"), ("latency_ms", f"ms a query, {size:,} documents"))
    for axis, (cost, label) in zip(axes, panels, strict=True):
        for funnel, marker in ((False, "o"), (True, "^")):
            for precision in PRECISIONS:
                some = [
                    r
                    for r in results
                    if r.setting.precision == precision and (r.setting.prefix is not None) == funnel
                ]
                if some:
                    axis.scatter(
                        [getattr(r, cost) for r in some],
                        [r.mean for r in some],
                        c=COLOURS[precision],
                        marker=marker,
                        s=26,
                        alpha=0.75,
                        linewidths=0,
                        label=f"{precision}{', funnel' if funnel else ''}",
                    )
        line = [
            r
            for r, member in zip(results, pareto(costs_of(results, (cost,))), strict=True)
            if member
        ]
        line.sort(key=lambda r: getattr(r, cost))
        axis.plot(
            [getattr(r, cost) for r in line],
            [r.mean for r in line],
            color="black",
            linewidth=1,
            drawstyle="steps-post",
            label="best at its cost",
            zorder=0,
        )
        if picked is not None:
            axis.scatter(
                [getattr(picked, cost)],
                [picked.mean],
                facecolors="none",
                edgecolors="black",
                s=130,
                label="chosen",
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(label)
        axis.set_ylabel("nDCG@10")
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(
        handles, labels, loc="outside lower center", ncols=5, fontsize="small", frameon=False
    )
    save(made, path)


def _costs(result: Measured) -> dict[str, float]:
    fields = dataclasses.asdict(result)
    return {name: float(fields[name]) for name in ("bytes", "flops", "latency_ms")}
