"""Retrieval from worse recordings: nDCG@10 at every dimension in every condition.

Documents are encoded once; so is each query once a condition, and every prefix is scored
from that. The change against clean recordings is a mean of differences on the same queries,
so its interval is much narrower than those of the two means.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.array_types import Float, Float32, HostArray
from mrl_jax.data.degrade import AMOUNTS, Condition, degrade, generator_of
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.records import Record
from mrl_jax.evaluation.report import figure, markdown_table, save
from mrl_jax.evaluation.retrieval import Judgements, evaluate_retrieval
from mrl_jax.evaluation.statistics import Interval, cluster_bootstrap
from mrl_jax.evaluation.vectors import Vectors

METRIC = "ndcg@10"
CLEAN = Condition(kind="clean")
CONDITIONS = (
    CLEAN,
    *(
        Condition(kind=kind, amount=snr_db)
        for kind in ("white", "babble")
        for snr_db in (30.0, 20.0, 15.0, 10.0, 5.0, 0.0, -5.0)
    ),
    *(Condition(kind="reverberation", amount=seconds) for seconds in (0.2, 0.4, 0.8)),
    Condition(kind="telephone"),
    *(Condition(kind="speed", amount=factor) for factor in (0.8, 0.9, 1.1, 1.25)),
    *(Condition(kind="length", amount=fraction) for fraction in (0.75, 0.5, 0.25)),
)
"""What a report measures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessResult:
    """nDCG@10 at one dimension in one condition.

    Attributes:
        condition: of the recordings.
        dim: width of the prefix.
        interval: mean over the judged queries, and its 95 % interval.
        change: mean of the differences from clean recordings, and their interval.
        per_query: one value a judged query.
    """

    condition: Condition
    dim: int
    interval: Interval
    change: Interval
    per_query: Float[HostArray, " judged"]


def check_babble(names: Sequence[str], apart: Sequence[Hashable]) -> None:
    """Refuse babble where a query has no other clip that it may be mixed from.

    Args:
        names: ids of the queries.
        apart: as in `degrade_all`.

    Raises:
        MrlError: all queries ask for the same.
    """
    if len(set(apart)) < 2:
        raise MrlError(
            f"babble takes at least one other clip, and all {len(names)} queries ask for the same",
            where="queries",
            mend="measure a set whose queries have different answers",
        )


def degrade_all(
    clips: Sequence[HostArray],
    names: Sequence[str],
    condition: Condition,
    *,
    sample_rate: int,
    apart: Sequence[Hashable],
    seed: int = 0,
    min_samples: int = 1,
) -> list[HostArray]:
    """Every clip in one condition.

    Babble is mixed from the other clips of the list, those that are asked for something
    else: the same question by another voice would be a hint. The other clips are taken in
    the order of their names, so that the order of the list changes nothing.

    Args:
        clips: one [S] float32 a query.
        names: their ids.
        condition: of all.
        sample_rate: of the clips.
        apart: what each query asks for; clips with the same are not each other's babble.
        seed: of all noise.
        min_samples: silence is put behind a clip that became shorter.
    """
    order = sorted(range(len(clips)), key=lambda row: names[row])
    degraded = []
    for row, (clip, name) in enumerate(zip(clips, names, strict=True)):
        others: list[HostArray] = []
        if condition.kind == "babble":
            others = [clips[other] for other in order if apart[other] != apart[row]]
        rng = generator_of(seed, condition.kind, name)
        worse = degrade(clip, condition, rng, sample_rate=sample_rate, others=others)
        missing = min(min_samples, clip.size) - worse.size
        degraded.append(np.pad(worse, (0, max(missing, 0))))
    return degraded


def measure_robustness(
    queries: Mapping[Condition, Vectors],
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    *,
    dims: Sequence[int],
    clusters: Sequence[Hashable] | None = None,
    crossed: Sequence[Hashable] | None = None,
) -> list[RobustnessResult]:
    """Results in the order of the conditions, and of `dims` within each.

    Args:
        queries: vectors of the queries in each condition, clean among them.
        documents: vectors of the corpus.
        judgements: in the order of both; of judged queries only.
        dims: widths of prefixes.
        clusters, crossed: what judged queries share, see `cluster_bootstrap`.
    """
    found = {
        condition: evaluate_retrieval(vectors, documents, judgements, dims=dims)
        for condition, vectors in queries.items()
    }
    results = []
    for condition, at_dims in found.items():
        for clean, result in zip(found[CLEAN], at_dims, strict=True):
            values, base = result.per_query[METRIC], clean.per_query[METRIC]
            results.append(
                RobustnessResult(
                    condition=condition,
                    dim=result.dim,
                    interval=cluster_bootstrap(values, clusters, crossed=crossed),
                    change=cluster_bootstrap(values - base, clusters, crossed=crossed),
                    per_query=values,
                )
            )
    return results


def robustness_records(results: Sequence[RobustnessResult], *, seed: int) -> list[Record]:
    """Two records a result: nDCG@10, and its change against clean recordings."""
    records = []
    for result in results:
        for metric, interval in (
            (METRIC, result.interval),
            (f"{METRIC} change against clean", result.change),
        ):
            records.append(
                Record(
                    metric=metric,
                    value=interval.mean,
                    dim=result.dim,
                    n=len(result.per_query),
                    low=interval.low,
                    high=interval.high,
                    setting={**result.condition.setting, "seed": seed},
                )
            )
    return records


def robustness_table(results: Sequence[RobustnessResult]) -> str:
    """nDCG@10 with its interval: a condition a row, a dimension a column."""
    dims = list(dict.fromkeys(result.dim for result in results))
    rows: dict[Condition, list[str]] = {}
    for result in results:
        rows.setdefault(result.condition, [result.condition.title]).append(_cell(result.interval))
    return markdown_table(["condition", *(f"first {dim}" for dim in dims)], list(rows.values()))


def change_table(results: Sequence[RobustnessResult]) -> str:
    """What each condition costs against clean recordings, with its interval."""
    dims = list(dict.fromkeys(result.dim for result in results))
    rows: dict[Condition, list[str]] = {}
    for result in results:
        if result.condition != CLEAN:
            row = rows.setdefault(result.condition, [result.condition.title])
            row.append(_cell(result.change, sign="+"))
    return markdown_table(["condition", *(f"first {dim}" for dim in dims)], list(rows.values()))


def plot_snr(path: Path, results: Sequence[RobustnessResult], *, chance: float) -> None:
    """nDCG@10 against the signal-to-noise ratio: white noise, and babble beside it."""
    kinds = [kind for kind, name in AMOUNTS.items() if name == "snr_db"]
    made, axes = figure(panels=len(kinds))
    for place, (kind, panel) in enumerate(zip(kinds, axes, strict=True)):
        for colour, dim in enumerate(_dims(results)):
            found = [r for r in results if r.dim == dim and r.condition.kind == kind]
            found.sort(key=lambda result: result.condition.amount or 0.0)
            amounts = [result.condition.amount for result in found]
            style = {"color": f"C{colour}", "label": f"first {dim} coordinates"}
            _curve(panel, amounts, [result.interval for result in found], **style)
            for clean in (r for r in results if r.dim == dim and r.condition == CLEAN):
                panel.axhline(clean.interval.mean, color=f"C{colour}", linestyle="--", linewidth=1)
        panel.axhline(chance, color="grey", linestyle=":", linewidth=1.2)
        panel.set_ylim(0, 1)
        panel.set_title({"white": "white noise", "babble": "babble"}[kind])
        panel.set_xlabel("signal-to-noise ratio (dB)")
        panel.set_ylabel("nDCG@10" if place == 0 else "")
    handles, labels = axes[0].get_legend_handles_labels()
    lines = [
        axes[0].plot([], [], color="black", linestyle="--", linewidth=1)[0],
        axes[0].plot([], [], color="grey", linestyle=":", linewidth=1.2)[0],
    ]
    made.legend(
        [*handles, *lines],
        [*labels, "clean recordings", f"chance, {chance:.4f}"],
        loc="outside right center",
        frameon=False,
    )
    save(made, path)


def plot_conditions(path: Path, results: Sequence[RobustnessResult], *, chance: float) -> None:
    """nDCG@10 in every condition that is no noise, a row each, with its interval."""
    shown = [r for r in results if AMOUNTS.get(r.condition.kind) != "snr_db"]
    conditions = list(dict.fromkeys(result.condition for result in shown))
    dims = _dims(shown)
    made, panel = figure(width=7.0, height=1.2 + 0.42 * len(conditions))
    spread = 0.64 / max(len(dims), 1)
    for colour, dim in enumerate(dims):
        found = [result for result in shown if result.dim == dim]
        means = np.asarray([result.interval.mean for result in found])
        ends = np.asarray([[r.interval.low, r.interval.high] for r in found]).T
        places = np.arange(len(found)) + (colour - (len(dims) - 1) / 2) * spread
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
    line = panel.axvline(chance, color="grey", linestyle=":")
    panel.set_yticks(range(len(conditions)), [condition.title for condition in conditions])
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.set_xlabel("nDCG@10")
    labels = [*labels, f"chance, {chance:.4f}"]
    made.legend([*handles, line], labels, loc="outside upper center", ncols=3, frameon=False)
    save(made, path)


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
