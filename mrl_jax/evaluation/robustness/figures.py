"""Records, tables and figures of the robustness report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.data.audio.degrade import AMOUNTS, Condition
from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.plotting import figure, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.robustness.measure import CLEAN, METRIC, RobustnessResult
from mrl_jax.metrics.intervals import Interval

CHANGE = f"{METRIC} change against clean"


def robustness_records(results: Sequence[RobustnessResult], *, seed: int) -> list[Record]:
    """Two records a result: nDCG@10, and its change against clean recordings."""
    rows = []
    for one in results:
        setting = {**one.condition.parameters, "seed": seed}
        for metric, interval in ((METRIC, one.interval), (CHANGE, one.change)):
            n = len(one.per_query)
            rows.append(Record.of(metric, interval, dim=one.dim, n=n, setting=setting))
    return rows


def robustness_table(results: Sequence[RobustnessResult]) -> Table:
    """nDCG@10 with its interval: a condition a row, a dimension a column."""
    return _table(results, lambda result: _cell(result.interval))


def change_table(results: Sequence[RobustnessResult]) -> Table:
    """What each condition costs against clean recordings, with its interval."""
    degraded = [result for result in results if result.condition != CLEAN]
    return _table(degraded, lambda result: _cell(result.change, sign="+"), of=results)


def plot_snr(path: Path, results: Sequence[RobustnessResult], *, chance: float) -> None:
    """nDCG@10 against the signal-to-noise ratio: white noise, and babble beside it."""
    kinds = [kind for kind, name in AMOUNTS.items() if name == "snr_db"]
    drawing, axes = figure(panels=len(kinds))
    for place, (kind, panel) in enumerate(zip(kinds, axes, strict=True)):
        for colour, dim in enumerate(_dims(results)):
            rows = [r for r in results if r.dim == dim and r.condition.kind == kind]
            rows.sort(key=lambda result: result.condition.amount or 0.0)
            amounts = [result.condition.amount for result in rows]
            style = {"color": f"C{colour}", "label": f"first {dim} coordinates"}
            _curve(panel, amounts, [result.interval for result in rows], **style)
            for clean in (r for r in results if r.dim == dim and r.condition == CLEAN):
                panel.axhline(clean.interval.mean, color=f"C{colour}", linestyle="--", linewidth=1)
        panel.axhline(chance, color="grey", linestyle=":", linewidth=1.2)
        panel.set_ylim(0, 1)
        panel.set_title({"white": "white noise", "babble": "babble"}[kind])
        panel.set_xlabel("signal-to-noise ratio (dB)")
        panel.set_ylabel("nDCG@10" if place == 0 else "")
    axes[0].plot([], [], color="black", linestyle="--", linewidth=1, label="clean recordings")
    axes[0].plot([], [], color="grey", linestyle=":", linewidth=1.2, label=f"chance, {chance:.4f}")
    handles, labels = axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside right center", frameon=False)
    save(drawing, path)


def plot_conditions(path: Path, results: Sequence[RobustnessResult], *, chance: float) -> None:
    """nDCG@10 in every condition that is no noise, a row each, with its interval."""
    shown = [r for r in results if AMOUNTS.get(r.condition.kind) != "snr_db"]
    conditions = list(dict.fromkeys(result.condition for result in shown))
    dims = _dims(shown)
    drawing, panel = figure(width=7.0, height=1.2 + 0.42 * len(conditions))
    bar_width = 0.64 / max(len(dims), 1)
    for colour, dim in enumerate(dims):
        rows = [result for result in shown if result.dim == dim]
        means = np.asarray([result.interval.mean for result in rows])
        ends = np.asarray([[r.interval.low, r.interval.high] for r in rows]).T
        places = np.arange(len(rows)) + (colour - (len(dims) - 1) / 2) * bar_width
        panel.errorbar(
            means,
            places,
            xerr=np.nan_to_num(np.abs(ends - means)),
            fmt="o",
            markersize=4,
            capsize=2,
            linewidth=1,
            color=f"C{colour}",
            label=f"first {dim} coordinates",
        )
    handles, labels = panel.get_legend_handles_labels()
    handles.append(panel.axvline(chance, color="grey", linestyle=":"))
    labels.append(f"chance, {chance:.4f}")
    panel.set_yticks(range(len(conditions)), [condition.title for condition in conditions])
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.set_xlabel("nDCG@10")
    drawing.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    save(drawing, path)


def _table(
    shown: Sequence[RobustnessResult],
    cell: Callable[[RobustnessResult], str],
    *,
    of: Sequence[RobustnessResult] | None = None,
) -> Table:
    rows: dict[Condition, list[str]] = {}
    for result in shown:
        rows.setdefault(result.condition, [result.condition.title]).append(cell(result))
    dims = dict.fromkeys(result.dim for result in of or shown)
    return Table(["condition", *(f"first {dim}" for dim in dims)], list(rows.values()))


def _curve(
    panel: Any, places: Sequence[float | None], intervals: Sequence[Interval], **style: Any
) -> None:
    low, high = ([getattr(i, end) for i in intervals] for end in ("low", "high"))
    panel.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
    panel.plot(places, [interval.mean for interval in intervals], "o-", markersize=4, **style)


def _dims(results: Sequence[RobustnessResult]) -> list[int]:
    return sorted({result.dim for result in results}, reverse=True)


def _cell(interval: Interval, *, sign: str = "") -> str:
    ends = [f"{end:{sign}.4f}" for end in (interval.low, interval.high)]
    return f"{interval.mean:{sign}.4f} [{ends[0]}, {ends[1]}]"
