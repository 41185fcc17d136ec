"""Results as records, a Markdown table and pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.errors import MrlError
from mrl_jax.evaluation.retrieval import RetrievalResult

HEADLINE = ("ndcg@5", "ndcg@10", "accuracy@5", "accuracy@10")
NAMES = {"ndcg": "nDCG", "accuracy": "accuracy", "mrr": "MRR"}


def records(
    results: Sequence[RetrievalResult], *, chance: float, identity: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One record a metric and dimension; `identity` says what was measured on what."""
    rows = [
        {"metric": name, "dim": result.dim, "value": value, "n": len(result.per_query[name])}
        for result in results
        for name, value in result.means.items()
    ]
    rows.append({"metric": "ndcg@10 of chance", "dim": None, "value": chance, "n": None})
    return [{**row, **identity} for row in rows]


def table(results: Sequence[RetrievalResult], *, chance: float) -> str:
    """A Markdown table, one row a dimension, chance in the last column."""
    names = [_title(name) for name in HEADLINE]
    lines = [
        f"| dimension | {' | '.join(names)} | nDCG@10 of chance |",
        "| ---: |" + " ---: |" * (len(names) + 1),
    ]
    for result in results:
        values = " | ".join(f"{result.means[name]:.4f}" for name in HEADLINE)
        lines.append(f"| {result.dim} | {values} | {chance:.4f} |")
    return "\n".join(lines)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def plot_dimensions(path: Path, results: Sequence[RetrievalResult], *, chance: float) -> None:
    """nDCG@10 against dimension, with chance as a line."""
    figure, axes = _figure()
    ordered = sorted(results, key=lambda result: result.dim)
    dims = [result.dim for result in ordered]
    axes.plot(dims, [r.means["ndcg@10"] for r in ordered], "o-", label="speech → text")
    axes.axhline(chance, color="grey", linestyle=":", label=f"chance, {chance:.4f}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.set_ylim(0, 1)
    axes.set_xlabel("dimension (prefix of the embedding)")
    axes.set_ylabel("nDCG@10")
    axes.legend()
    _save(figure, path)


def plot_training(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss against step, and validation nDCG@10 at each dimension beside it.

    Args:
        path: picture to write.
        rows: the lines of a run's metrics.jsonl.
    """
    figure, axes = _figure(panels=2)
    train = [row for row in rows if row["kind"] == "train"]
    axes[0].plot([row["step"] for row in train], [row["loss"] for row in train], linewidth=1)
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("training loss")
    validation = [row for row in rows if row["kind"] == "validation"]
    for name in [
        key for key in (validation[-1] if validation else {}) if key.startswith("ndcg@10/")
    ]:
        label = f"first {name.rpartition('/')[2]} coordinates"
        steps = [row["step"] for row in validation]
        axes[1].plot(steps, [row[name] for row in validation], "o-", label=label, markersize=3)
    axes[1].set_ylim(0, 1)
    axes[1].set_xlabel("step")
    axes[1].set_ylabel("validation nDCG@10")
    if validation:
        axes[1].legend(fontsize="small")
    _save(figure, path)


def _title(name: str) -> str:
    metric, _, k = name.partition("@")
    return f"{NAMES[metric]}@{k}"


def _figure(panels: int = 1) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MrlError(
            "pictures take matplotlib, which is not installed",
            mend="install the extra: `pip install 'mrl_jax[train]'`",
        ) from error
    figure = Figure(figsize=(5.2 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels)
    for one in axes if panels > 1 else [axes]:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=150, format="png")
    partial.replace(path)
