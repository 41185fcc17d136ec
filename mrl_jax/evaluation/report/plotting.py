"""Figures by matplotlib: panels, a common look, and what several reports draw alike."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.files import write_bytes
from mrl_jax.metrics.intervals import Interval, PairedTest


def figure(panels: int = 1, *, width: float = 5.2, height: float = 3.6) -> tuple[Any, Any]:
    """A matplotlib figure, and its axes: one, or an array of `panels` side by side.

    `width` and `height` are those of one panel, in inches.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width * panels, height), layout="constrained")
    axes = drawing.subplots(1, panels)
    for one in axes if panels > 1 else [axes]:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def save(drawing: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    data = io.BytesIO()
    drawing.savefig(data, dpi=150, format="png")
    write_bytes(path, data.getvalue())


def error_bars(
    axes: Any,
    places: Sequence[int] | Sequence[float],
    intervals: Sequence[Interval] | Sequence[PairedTest],
    **style: Any,
) -> None:
    """Means, or differences, with their intervals."""
    means = [one.mean if isinstance(one, Interval) else one.difference for one in intervals]
    ends = [
        [mean - one.low for mean, one in zip(means, intervals, strict=True)],
        [one.high - mean for mean, one in zip(means, intervals, strict=True)],
    ]
    axes.errorbar(places, means, yerr=np.nan_to_num(np.asarray(ends)), **style)


def dimension_axis(axes: Any, dims: Sequence[int]) -> None:
    """A logarithmic axis whose ticks are the dimensions themselves."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.minorticks_off()
    axes.set_xlabel("dimension (prefix of the embedding)")


def plot_training(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss against step, and validation nDCG@10 beside it, from the lines of metrics.jsonl."""
    drawing, axes = figure(panels=2)
    train = [row for row in rows if row["kind"] == "train"]
    axes[0].plot([row["step"] for row in train], [row["loss"] for row in train], linewidth=1)
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("training loss")
    validation = [row for row in rows if row["kind"] == "validation"]
    steps = [row["step"] for row in validation]
    for name in (key for row in validation[-1:] for key in row if key.startswith("ndcg@10/")):
        label = f"first {name.rpartition('/')[2]} coordinates"
        axes[1].plot(steps, [row[name] for row in validation], "o-", label=label, markersize=3)
    axes[1].set_ylim(0, 1)
    axes[1].set_xlabel("step")
    axes[1].set_ylabel("validation nDCG@10")
    if validation:
        axes[1].legend(fontsize="small")
    save(drawing, path)
