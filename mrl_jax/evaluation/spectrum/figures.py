"""Spectra, nDCG against size, and blocks of coordinates: records, tables and figures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.evaluation.report.page import Table
from mrl_jax.evaluation.report.plotting import dimension_axis, figure, save
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import intervals_of, p_text, paired_difference
from mrl_jax.evaluation.spectrum.measure import METRIC, BlockResult, SizeResult, Spectrum
from mrl_jax.metrics.intervals import Clusters, Interval, PairedTest

LOOKS: Mapping[str, tuple[str, str, str]] = {
    "prefix": ("#000000", "o", "-"),
    "rotated prefix": ("#d55e00", "D", "-"),
    "directions of documents": ("#0072b2", "s", "-"),
    "directions of both": ("#56b4e9", "s", "--"),
    "PCA of documents": ("#009e73", "^", "-"),
    "random coordinates": ("#777777", ".", "-"),
    "last coordinates": ("#cc79a7", "v", "--"),
}
"""Colour, marker and line of each view, colours that the colour-blind can tell apart."""
Spectra = Mapping[tuple[str, bool], Spectrum]
"""Which vectors, and whether their mean was subtracted, to their spectrum."""

Gains = Mapping[int, tuple[float, float, PairedTest]]
"""Dim to nDCG of the plain and of the rotated prefix, and the test of the two."""


def spectrum_records(spectra: Spectra, rows: Mapping[str, int]) -> list[Record]:
    """Every measure of every spectrum."""
    records = []
    for (kind, centred), one in spectra.items():
        setting = {"vectors": kind, "centred": str(centred).lower()}
        for name, value in one.measures().items():
            records.append(Record(metric=name, value=value, n=rows[kind], setting=setting))
    return records


def spectrum_rows(spectra: Spectra) -> list[dict[str, object]]:
    """Every singular value, and the part of the energy in it and all before it."""
    return [
        {
            "vectors": kind,
            "centred": centred,
            "direction": place,
            "singular_value": float(value),
            "cumulative_energy": float(energy),
        }
        for (kind, centred), one in spectra.items()
        for place, (value, energy) in enumerate(zip(one.values, one.cumulative, strict=True), 1)
    ]


def size_records(results: Sequence[SizeResult], clusters: Clusters) -> list[Record]:
    """nDCG of each view at each size with its interval; one record a seed of random ones."""
    intervals = intervals_of([result.per_query for result in results], clusters)
    records = []
    for one, interval in zip(results, intervals, strict=True):
        setting = {"kept": one.kind} | ({} if one.seed is None else {"draw": one.seed})
        record = Record.of(METRIC, interval, dim=one.size, n=len(one.per_query), setting=setting)
        records.append(dataclasses.replace(record, value=one.mean))
    return records


def block_records(blocks: Sequence[BlockResult], clusters: Clusters) -> list[Record]:
    """What each block scores alone, what it adds to all others, and to those before it."""
    columns = {
        f"{METRIC} of a block alone": [block.alone for block in blocks],
        f"{METRIC} that a block adds": [block.adds for block in blocks],
        f"{METRIC} that a block adds to the prefix": [b.upto - b.before for b in blocks],
    }
    records = []
    for name, column in columns.items():
        intervals = intervals_of(column, clusters)
        for block, values, interval in zip(blocks, column, intervals, strict=True):
            setting = {"first": block.start + 1, "last": block.stop}
            records.append(Record.of(name, interval, n=len(values), setting=setting))
    return records


def rotation_gains(results: Sequence[SizeResult], dims: Sequence[int], clusters: Clusters) -> Gains:
    """What the rotation changes at each dim."""
    by_view = {(result.kind, result.size): result for result in results}
    gains = {}
    for dim in sorted(dims):
        plain, rotated = by_view["prefix", dim], by_view["rotated prefix", dim]
        test = paired_difference(rotated.per_query, plain.per_query, clusters)
        gains[dim] = (plain.mean, rotated.mean, test)
    return gains


def rotation_records(gains: Gains) -> list[Record]:
    """What the rotation adds to nDCG at each dim."""
    name = f"{METRIC} that the rotation adds"
    return [
        Record.of(name, test, dim=dim, setting={"p_value": test.p_value})
        for dim, (_, _, test) in gains.items()
    ]


def rotation_table(gains: Gains) -> Table:
    """One row a dim: before, after, and the paired difference."""
    rows = [
        [
            str(dim),
            f"{plain:.4f}",
            f"{rotated:.4f}",
            _change(test.difference, test),
            p_text(test.p_value),
        ]
        for dim, (plain, rotated, test) in gains.items()
    ]
    return Table(["dimension", "prefix", "rotated prefix", "difference", "p"], rows)


def spectrum_table(spectra: Spectra) -> Table:
    """One row a spectrum."""
    names = list(next(iter(spectra.values())).measures())
    rows = []
    for (kind, centred), one in spectra.items():
        cells = [f"{v:.0f}" if "keeping" in n else f"{v:.1f}" for n, v in one.measures().items()]
        rows.append([f"{kind}, {'centred' if centred else 'as they are'}", *cells])
    return Table(["vectors", *names], rows)


def gap_table(gaps: Mapping[int, tuple[float, float]]) -> Table:
    """One row a dimension: distance and cosine of the two means."""
    rows = [[str(dim), f"{gap:.4f}", f"{cosine:.4f}"] for dim, (gap, cosine) in gaps.items()]
    return Table(["dimension", "distance of means", "cosine of means"], rows)


def size_table(results: Sequence[SizeResult]) -> Table:
    """One row a size, one column a view; of random ones the mean and the range of draws."""
    kinds = list(dict.fromkeys(result.kind for result in results))
    sizes = sorted({result.size for result in results})
    rows = []
    for size in sizes:
        cells = []
        for kind in kinds:
            means = [r.mean for r in results if r.kind == kind and r.size == size]
            interval = f" ({min(means):.3f} to {max(means):.3f})" if len(means) > 1 else ""
            cells.append(f"{np.mean(means):.4f}{interval}" if means else "")
        rows.append([str(size), *cells])
    return Table(["size", *kinds], rows)


def block_table(blocks: Sequence[BlockResult], clusters: Clusters) -> Table:
    """One row a block; what it adds with its interval."""
    adds = intervals_of([block.adds for block in blocks], clusters)
    rows = []
    for block, interval in zip(blocks, adds, strict=True):
        scores = [f"{np.mean(values):.4f}" for values in (block.alone, block.without)]
        gain = f"{np.mean(block.upto - block.before):+.4f}"
        rows.append([block.name, *scores, _change(interval.mean, interval), gain])
    header = ["coordinates", "alone", "without them", "they add", "they add to the prefix"]
    return Table(header, rows)


def plot_spectra(path: Path, spectra: Spectra) -> None:
    """Singular values by rank, and the energy that the leading directions keep."""
    drawing, axes = figure(panels=2, width=4.8, height=3.7)
    kinds = list(dict.fromkeys(kind for kind, _ in spectra))
    colours = dict(zip(kinds, ("#d55e00", "#0072b2", "#009e73"), strict=False))
    for (kind, centred), one in spectra.items():
        label = f"{kind}, {'centred' if centred else 'as they are'}"
        look: dict[str, Any] = {"color": colours[kind], "label": label, "linewidth": 1.5}
        look["linestyle"] = "--" if centred else "-"
        ranks = np.arange(1, len(one.values) + 1)
        shares = one.values / one.values[0]
        # Rounding leaves tiny values where there are none.
        axes[0].plot(ranks, np.where(shares > 1e-6, shares, np.nan), **look)
        axes[1].plot(ranks, one.cumulative, **look)
    for fraction in (0.9, 0.95, 0.99):
        axes[1].axhline(fraction, color="grey", linewidth=0.7, linestyle=":")
    axes[0].set_yscale("log")
    axes[0].set_ylim(top=1.5)
    axes[0].set_ylabel("singular value / largest")
    axes[1].set_ylabel("cumulative energy")
    axes[1].set_ylim(0, 1.02)
    for one in axes:
        one.set_xscale("log", base=2)
        one.xaxis.set_major_formatter("{x:.0f}")
        one.set_xlabel("rank")
    axes[1].legend(fontsize="small", frameon=False, loc="lower right")
    save(drawing, path)


def plot_sizes(
    path: Path, results: Sequence[SizeResult], *, chance: float, trained: Sequence[int]
) -> None:
    """nDCG against the numbers kept, one curve a view, a band for random ones."""
    drawing, axes = figure(width=8.6, height=4.4)
    sizes = sorted({result.size for result in results})
    for kind in dict.fromkeys(result.kind for result in results):
        colour, marker, line = LOOKS[kind]
        by_size = [[r.mean for r in results if r.kind == kind and r.size == s] for s in sizes]
        draws = max(map(len, by_size))
        label = f"{kind}, mean and range of {draws}" if draws > 1 else kind
        means = [np.mean(values) for values in by_size]
        front = {"prefix": 4, "rotated prefix": 3}.get(kind, 2)
        style = {"marker": marker, "linestyle": line, "markersize": 4.5, "zorder": front}
        width = 2.2 if kind == "prefix" else 1.4
        axes.plot(sizes, means, color=colour, label=label, linewidth=width, **style)
        if draws > 1:
            low, high = ([end(values) for values in by_size] for end in (min, max))
            axes.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.axhline(chance, color="grey", linestyle=":", label=f"chance, {chance:.4f}")
    shown = [size for size in sizes if size in trained]
    means = [next(r.mean for r in results if r.kind == "prefix" and r.size == s) for s in shown]
    style = {"markersize": 10, "markerfacecolor": "none", "markeredgecolor": "#000000"}
    axes.plot(shown, means, "o", label="trained dimension", zorder=5, **style)
    dimension_axis(axes, [size for size in sizes if size & (size - 1) == 0 or size == sizes[-1]])
    axes.set_xlabel("numbers kept of the embedding")
    axes.set_ylabel("nDCG@10")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(drawing, path)


def plot_blocks(path: Path, blocks: Sequence[BlockResult], clusters: Clusters) -> None:
    """What each block scores alone, and what it adds to all others, with intervals."""
    drawing, axes = figure(panels=2, width=4.8, height=3.7)
    places = np.arange(len(blocks))
    columns = ([block.alone for block in blocks], [block.adds for block in blocks])
    for one, values, colour in zip(axes, columns, ("#0072b2", "#d55e00"), strict=True):
        intervals = intervals_of(values, clusters)
        ends = [
            [max(i.mean - i.low, 0) if np.isfinite(i.low) else 0 for i in intervals],
            [max(i.high - i.mean, 0) if np.isfinite(i.high) else 0 for i in intervals],
        ]
        heights = [interval.mean for interval in intervals]
        one.bar(places, heights, yerr=ends, color=colour, capsize=3, width=0.75)
        one.axhline(0, color="#444444", linewidth=0.8)
        one.grid(axis="x", visible=False)
        one.set_xticks(places, [block.name for block in blocks], rotation=45, ha="right")
        one.set_xlabel("coordinates")
    axes[0].set_ylabel("nDCG@10 of the block alone")
    axes[1].set_ylabel("nDCG@10 that the block adds")
    save(drawing, path)


def _change(mean: float, ends: Interval | PairedTest) -> str:
    known = "" if np.isnan(ends.low) else f" ({ends.low:+.3f} to {ends.high:+.3f})"
    return f"{mean:+.4f}{known}"
