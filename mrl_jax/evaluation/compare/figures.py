"""Systems side by side: records, tables and a figure."""

import math
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.evaluation.compare.systems import METRIC, Means, System, SystemDifference
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.plotting import dimension_axis, error_bars, figure, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import (
    difference_cells,
    mean_text,
    metric_title,
    p_text,
)

MARKERS = "osD^vP*X"


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
        setting = {"system": system.name, "kind": system.kind}
        rows += [
            Record(metric=metric, value=float(value), setting=setting)
            for metric, value in (
                ("parameters", system.cost.parameters),
                ("trained parameters", system.cost.trained),
                ("seconds a query", system.cost.seconds),
                ("flops a query", system.cost.flops),
            )
        ]
        rows += [
            Record(metric="bytes a document", value=float(bytes_of(dim)), dim=dim, setting=setting)
            for dim in system.scores
        ]
    for pair in pairs:
        names = {"system": pair.name, "other_system": pair.other}
        tested = {"p_value": pair.test.p_value, "p_adjusted": pair.p_adjusted}
        rows.append(
            Record.of(
                f"{METRIC} difference",
                pair.test,
                dim=pair.dim,
                n=counts[pair.name],
                setting={**names, **tested},
            )
        )
    return rows


def score_table(systems: Sequence[System], means: Means, metric: str, *, chance: float) -> Table:
    """One row a system, one column a dimension with its bytes, chance in the last row."""
    dims = list(systems[0].scores)
    header = [metric_title(metric), *(f"{dim} ({bytes_of(dim)} bytes)" for dim in dims)]
    rows = [[s.name, *(mean_text(means[s.name, dim, metric]) for dim in dims)] for s in systems]
    return Table(header, [*rows, ["chance", *([f"{chance:.4f}"] * len(dims))]])


def cost_table(systems: Sequence[System]) -> Table:
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
    return Table(["system", "kind", "parameters", "trained", "ms a query", "FLOPs a query"], rows)


def _counted(value: int | float, layout: str) -> str:
    return "unknown" if math.isnan(value) else format(value, layout)


def system_differences_table(pairs: Sequence[SystemDifference]) -> Table:
    """One row a pair of systems and dimension."""
    rows = [
        [
            f"{pair.name} - {pair.other}",
            str(pair.dim),
            *difference_cells(pair.test),
            p_text(pair.p_adjusted),
        ]
        for pair in pairs
    ]
    header = ["systems", "dimension", "difference", "95 %", "p", "p, adjusted"]
    return Table(header, rows)


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
