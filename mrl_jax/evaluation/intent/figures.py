"""Intent scores as records, tables and figures."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.evaluation.intent.measure import CENTROID, NAME, IntentResult
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.plotting import figure, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.metrics.intervals import Clusters, Interval, cluster_bootstraps

SCORES = ("accuracy", "macro F1", "weighted F1")
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
STYLES = {NAME: "o", CENTROID: "x", "mteb": "s--", "cv": "o-"}
"""Marker and line of each method."""
NUMBERED = 16
"""Labels up to which the cells of a confusion matrix hold their numbers."""


def intent_records(
    results: Sequence[IntentResult], clusters: Clusters | None = None
) -> list[Record]:
    """Each score: its mean over seeds, their spread, and where it has one its interval."""
    rows = []
    for result in results:
        intervals = score_intervals(result, clusters)
        for name, values in result.scores().items():
            ends: dict[str, float] = {}
            if name in intervals:
                ends = {"low": intervals[name].low, "high": intervals[name].high}
            setting: dict[str, str | int | float] = {
                "shots": result.shots,
                "method": result.method,
                "features": result.features,
            }
            if result.shots:
                setting |= {"seeds": len(values), "sd": deviation(values)}
                setting |= {"least": min(values), "most": max(values)}
            mean, n = float(np.mean(values)), len(result.truth)
            rows.append(
                Record(metric=name, value=mean, dim=result.dim, n=n, setting=setting, **ends)
            )
    return rows


def score_intervals(result: IntentResult, clusters: Clusters | None = None) -> dict[str, Interval]:
    """95 % intervals of accuracy and macro F1 (means over seeds), from resampling test examples."""
    texts, speakers = (clusters.texts, clusters.speakers) if clusters else (None, None)
    columns = np.stack([result.right.mean(axis=0), result.macro_f1_values()], axis=1)
    accuracy, f1 = cluster_bootstraps(columns, texts, crossed=speakers)
    # The values that macro F1 is the mean of are not within 0 and 1.
    f1 = dataclasses.replace(f1, low=np.maximum(f1.low, 0.0), high=np.minimum(f1.high, 1.0))
    return {"accuracy": accuracy, "macro F1": f1}


def deviation(values: Sequence[float]) -> float:
    """Standard deviation over seeds, 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def intent_table(results: Sequence[IntentResult], clusters: Clusters | None = None) -> Table:
    """One row a dimension, number of shots and method: mean ± standard deviation over seeds."""
    rows = []
    for result in results:
        cells = []
        for values in result.scores().values():
            spread = f" ± {deviation(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{spread}")
        for interval in score_intervals(result, clusters).values():
            cells.append(f"{interval.low:.3f} to {interval.high:.3f}")
        rows.append([str(result.dim), str(result.shots), result.method, *cells])
    ends = ("95 % of accuracy", "95 % of macro F1")
    return Table(["dimension", "shots", "method", *SCORES, *ends], rows)


def confusion_table(result: IntentResult, *, most: int = 15) -> Table:
    """The pairs of labels that are taken for each other most, in per cent of the true one."""
    counts, classes = result.confusion(), result.classes
    totals, wrong = counts.sum(axis=1), counts * ~np.eye(len(counts), dtype=bool)
    rows = []
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:most]:
        true, predicted = np.unravel_index(flat, counts.shape)
        if not wrong[true, predicted]:
            break
        part = f"{wrong[true, predicted] / totals[true]:.0%}"
        rows.append([classes[true], classes[predicted], part])
    return Table(["label", "taken for", "of the label's examples"], rows or [["none"] * 3])


def plot_shots(path: Path, results: Sequence[IntentResult]) -> None:
    """Accuracy and macro F1 against shots; a colour a dimension, a style a method, bars over
    seeds."""
    drawing, axes = figure(panels=2, width=4.6, height=3.6)
    dims = list(dict.fromkeys(result.dim for result in results))
    shots = list(dict.fromkeys(result.shots for result in results))
    chance = 1 / len(results[0].classes)
    for one, name in zip(axes, SCORES, strict=False):
        for method in dict.fromkeys(result.method for result in results):
            for number, dim in enumerate(dims):
                some = [r for r in results if (r.dim, r.method) == (dim, method)]
                values = [r.scores()[name] for r in some]
                # Side by side, so that bars do not hide each other.
                shift = 0.06 * (number - (len(dims) - 1) / 2)
                places = [shots.index(r.shots) + shift for r in some]
                means, bars = ([of(one) for one in values] for of in (np.mean, deviation))
                style: dict[str, Any] = {"fmt": STYLES[method], "capsize": 2.5, "markersize": 4}
                style |= {"linewidth": 1.3, "label": f"{method}, first {dim}"}
                style["color"] = COLOURS[number % len(COLOURS)]
                one.errorbar(places, means, yerr=bars, **style)
        one.set_xticks(range(len(shots)), [str(count) for count in shots])
        one.set_xlabel("training examples a label (0: nearest label text)")
        one.set_ylabel(name)
        one.set_ylim(0, 1.02)
    axes[0].axhline(chance, color="grey", linestyle=":", label=f"1 of {round(1 / chance)} labels")
    axes[0].legend(fontsize="x-small", frameon=False)
    save(drawing, path)


def plot_confusion(path: Path, result: IntentResult) -> None:
    """What each label was taken for, as parts of its examples, in a matrix."""
    counts = result.confusion()
    totals = counts.sum(axis=1, keepdims=True)
    parts = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    size = len(counts)
    cell, font = (0.42, 9) if size <= NUMBERED else (0.17, 6.5)
    margin = 1.2 + 0.075 * max(map(len, result.classes))
    drawing, axes = figure(width=max(3.6, cell * size + margin + 0.8), height=cell * size + margin)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set_xticks(range(size), result.classes, rotation=90, fontsize=font)
    axes.set_yticks(range(size), result.classes, fontsize=font)
    if size <= NUMBERED:
        for (row, column), part in np.ndenumerate(parts):
            if counts[row, column]:
                style = {"ha": "center", "va": "center", "fontsize": 8}
                colour = "white" if part > 0.55 else "black"
                axes.text(column, row, f"{part * 100:.0f}", color=colour, **style)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    label = "part of the true label's examples"
    drawing.colorbar(image, ax=axes, label=label, fraction=0.04, pad=0.02)
    save(drawing, path)
