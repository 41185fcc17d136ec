"""Systems side by side: records, tables and a figure."""

import math
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.evaluation.compare.systems import METRIC, Means, System, SystemDifference
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.plotting import dimension_axis, error_bars, figure, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import (
    DIFFERENCE,
    difference_cells,
    mean_text,
    metric_title,
)

MARKERS = "osD^vP*X"
COSTS = ("parameters", "trained parameters", "seconds a query", "flops a query")


def bytes_of(dim: int) -> int:
    """What a stored document takes in float32."""
    return 4 * dim


def system_records(
    systems: Sequence[System], means: Means, pairs: Sequence[SystemDifference]
) -> list[Record]:
    """Scores, costs and differences; the entry `system` of a record says whose they are."""
    counts = {system.name: len(next(iter(system.scores.values()))[METRIC]) for system in systems}
    rows = [
        Record.of(metric, mean, dim=dim, n=counts[name], setting={"system": name})
        for (name, dim, metric), mean in means.items()
    ]
    for system in systems:
        setting, cost = {"system": system.name, "kind": system.kind}, system.cost
        values = (cost.parameters, cost.trained, cost.seconds, cost.flops)
        rows += [
            Record(metric=metric, value=float(value), setting=setting)
            for metric, value in zip(COSTS, values, strict=True)
        ]
        rows += [
            Record(metric="bytes a document", value=float(bytes_of(dim)), dim=dim, setting=setting)
            for dim in system.scores
        ]
    for pair in pairs:
        setting = {"system": pair.name, "other_system": pair.other}
        setting |= {"p_value": pair.test.p_value, "p_adjusted": pair.p_adjusted}
        fields = {"dim": pair.dim, "n": counts[pair.name], "setting": setting}
        rows.append(Record.of(f"{METRIC} difference", pair.test, **fields))
    return rows


def score_table(systems: Sequence[System], means: Means, metric: str, *, chance: float) -> Table:
    """One row a system, one column a dimension with its bytes, chance in the last row."""
    dims = list(systems[0].scores)
    header = [metric_title(metric), *(f"{dim} ({bytes_of(dim)} bytes)" for dim in dims)]
    rows = [[s.name, *(mean_text(means[s.name, dim, metric]) for dim in dims)] for s in systems]
    return Table(header, [*rows, ["chance", *([f"{chance:.4f}"] * len(dims))]])


def cost_table(systems: Sequence[System]) -> Table:
    """One row a system: its kind, parameters, and what a query costs."""
    rows = []
    for system in systems:
        cost = system.cost
        counts = [_counted(cost.parameters, ",.0f"), f"{cost.trained:,}"]
        work = [f"{1000 * cost.seconds:.1f}", _counted(cost.flops, ".3g")]
        rows.append([system.name, system.kind, *counts, *work])
    return Table(["system", "kind", "parameters", "trained", "ms a query", "FLOPs a query"], rows)


def _counted(value: int | float, layout: str) -> str:
    return "unknown" if math.isnan(value) else format(value, layout)


def system_differences_table(pairs: Sequence[SystemDifference]) -> Table:
    """One row a pair of systems and dimension."""
    rows = [
        [f"{p.name} - {p.other}", str(p.dim), *difference_cells(p.test, p.p_adjusted)]
        for p in pairs
    ]
    return Table(["systems", "dimension", *DIFFERENCE], rows)


def plot_systems(path: Path, systems: Sequence[System], means: Means, *, chance: float) -> None:
    """nDCG@10 against dimension, a line a system, with intervals."""
    drawing, axes = figure(width=6.4, height=4.2)
    dims = sorted(systems[0].scores)
    for place, system in enumerate(systems):
        # Apart by a little, so that no interval hides another.
        shift = 2 ** (0.06 * (place - (len(systems) - 1) / 2))
        error_bars(
            axes,
            [dim * shift for dim in dims],
            [means[system.name, dim, METRIC] for dim in dims],
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
    axes.set_ylabel(metric_title(METRIC))
    drawing.legend(loc="outside right center", fontsize="small", frameon=False)
    save(drawing, path)
