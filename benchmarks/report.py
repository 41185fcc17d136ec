"""Write every table of the documentation from results, and two of its figures.

    python benchmarks/report.py            writes
    python benchmarks/report.py --check    changes nothing; status 1 where a table is out of date

docs/benchmarks.md and docs/claims.md are written whole, docs/parity.png and docs/claims.png are
drawn. In other pages a table stands between `<!-- table: NAME -->` and `<!-- end of table -->`.
Results are benchmarks/results/*.json and the reports in docs/examples.
"""

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import report_claims
import report_curation
import report_curation_models
import report_encode
import report_exports
import report_long_audio
import report_scale
import report_start_up
from markdown_tables import markdown_table, median_and_range

from mrl_jax.core.paths import user_path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/index.md", "docs/results.md")
LIMIT = 1e-5
"""The largest relative error against PyTorch that a tower may have."""
SYSTEMS_HEADING = "nDCG@10 at each dimension"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--root", type=user_path, default=ROOT, help="checkout; default: this one")
    args = parser.parse_args(argv)
    pages = written_pages(args.root)
    stale = [p for p, text in pages.items() if not p.is_file() or p.read_text("utf-8") != text]
    if args.check:
        for path in stale:
            print(f"{path}: a table differs from its results; run python benchmarks/report.py")
        return 1 if stale else 0
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    draw_parity(read_result(args.root, "towers"), args.root / "docs" / "parity.png")
    if has_claims(args.root):
        report_claims.draw_claims(read_result(args.root, "claims"), args.root / "docs/claims.png")
    return 0


def written_pages(root: Path) -> dict[Path, str]:
    """Path -> its whole text with all tables as the results have them."""
    pages = {root / "docs" / "benchmarks.md": benchmarks_page(root)}
    if has_claims(root):
        claims = read_result(root, "claims")
        page = report_claims.claims_page(claims) + _footer(claims) + "\n"
        pages[root / "docs" / "claims.md"] = page
    for name in PAGES:
        path = root / name
        pages[path] = fill_tables(path.read_text(encoding="utf-8"), root)
    return pages


def has_claims(root: Path) -> bool:
    """Whether the claims have been measured."""
    return (root / "benchmarks" / "results" / "claims.json").is_file()


def fill_tables(text: str, root: Path) -> str:
    """A page with every marked table replaced; an unknown name is a KeyError."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{MARKED_TABLES[match[2]](root)}\n{match[3]}"

    marked = r"(<!-- table: (\S+) -->)\n.*?(<!-- end of table -->)"
    return re.sub(marked, table, text, flags=re.DOTALL)


def read_result(root: Path, name: str) -> dict[str, Any]:
    path = root / "benchmarks" / "results" / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def report_table(root: Path, report: str, heading: str) -> str:
    """The table under a heading of a report that docs/examples holds."""
    text = (root / "docs" / "examples" / report / "report.md").read_text(encoding="utf-8")
    _, _, section = text.partition(f"\n## {heading}\n")
    lines = section.strip().splitlines()
    rows = [line for line in lines[: lines.index("")] if line.startswith("|")]
    return "\n".join(rows)


def benchmarks_page(root: Path) -> str:
    parts = [
        "# Benchmarks",
        "Every table is written by `python benchmarks/report.py` from `benchmarks/results/`. "
        "`make bench` runs all benchmarks that need no data. A ratio compares two sides of one "
        "run on one machine; absolute times hold for that machine only. Nothing was measured on "
        "a TPU yet.",
    ]
    for name, section in SECTIONS.items():
        if name in OPTIONAL and not (root / "benchmarks" / "results" / f"{name}.json").is_file():
            continue
        result = read_result(root, name)
        parts += [*section(result), _footer(result)]
    return "\n\n".join(parts) + "\n"


def draw_parity(result: dict[str, Any], path: Path) -> None:
    """Error of every state of every full-size tower, on one logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    for (name, figures), marker in zip(result["figures"].items(), "osD", strict=True):
        # An exact state (the embedding lookup) has no place on a logarithmic axis.
        points = [(i, e) for i, e in enumerate(figures["errors"].values()) if e > 0]
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=3.5, label=name)
    axes.axhline(LIMIT, color="black", linestyle="--", linewidth=1)
    axes.text(0, LIMIT * 1.15, "what a tower may be off by", fontsize=8, va="bottom")
    axes.set(
        yscale="log",
        ylim=(5e-8, 3e-5),
        xlabel="state: 0 is the first layer's input, the last is the output",
        ylabel="‖ours - PyTorch‖ / ‖PyTorch‖",
        title="Full-size towers, float32, random weights",
    )
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


def towers_table(root: Path) -> str:
    rows = [
        [
            name,
            f"{f['largest_error']:.0e}",
            f"{f['ours']['median']:.1f} s",
            f"{f['torch_over_ours']:.2f}",
            f"{f['compile_scanned']:.0f} s, {f['compile_unrolled']:.0f} s",
        ]
        for name, f in read_result(root, "towers")["figures"].items()
    ]
    header = [
        "full-size tower",
        "largest error of a layer",
        "forward pass",
        "PyTorch's time / ours",
        "compile: scanned, unrolled",
    ]
    return markdown_table(header, rows)


def demo_rows(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["dimension", "nDCG@10", "chance"]
    chance = f"{figures['chance']:.4f}"
    return header, [[dim, f"{x:.4f}", chance] for dim, x in figures["ndcg@10"].items()]


def digits_rows(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Known speakers, each speaker left out, and their mean: nDCG@10 at each dimension."""
    dims = list(next(iter(figures.values()))["ndcg@10"])
    left_out = {name: f for name, f in figures.items() if name != "known"}
    named = {"known speakers, unseen takes": figures["known"]} if "known" in figures else {}
    rows = [
        [name, *(f"{f['ndcg@10'][dim]:.4f}" for dim in dims), f"{f['chance']:.4f}"]
        for name, f in {
            **named,
            **{f"{speaker}, not in training": f for speaker, f in left_out.items()},
        }.items()
    ]
    if len(left_out) > 1:
        means = [sum(f["ndcg@10"][dim] for f in left_out.values()) / len(left_out) for dim in dims]
        chance = next(iter(left_out.values()))["chance"]
        name = "mean of speakers not in training"
        rows.append([name, *(f"{mean:.4f}" for mean in means), f"{chance:.4f}"])
    return ["speaker", *(f"{dim} coordinates" for dim in dims), "chance"], rows


def demo(result: dict[str, Any]) -> list[str]:
    f = result["figures"]
    took = "" if result["seconds"] is None else f" {result['seconds']:.0f} s in all."
    return [
        "## The demo",
        f"nDCG@10 of {f['queries']} spoken queries, unseen sentences in unseen voices, among "
        f"{f['documents']} French sentences; a head trained for {result['steps']} steps.{took}",
        markdown_table(*demo_rows(f)),
    ]


def spoken_digits(result: dict[str, Any]) -> list[str]:
    some = next(iter(result["figures"].values()))
    return [
        "## Spoken digits",
        f"nDCG@10 of {some['queries']} unseen strings of three digits, spoken in English, among "
        f"{some['documents']} French wordings. Real recordings (Free Spoken Digit Dataset).",
        markdown_table(*digits_rows(result["figures"])),
    ]


def text_stage(result: dict[str, Any]) -> list[str]:
    f, scores = result, result["ndcg@10"]
    rows = [
        [dim, f"{scores['before'][dim]:.3f}", f"{after:.3f}", f"{scores['chance']:.3f}"]
        for dim, after in scores["after"].items()
    ]
    run = f"{f['tokenizer']}, {f['steps']:,} steps of {f['batch']}, {f['seconds']:.0f} s"
    return [
        "## Text stage",
        f"nDCG@10 of Wolof sentences that ask for their French ones: {f['data']}. A tower of "
        f"{f['parameters']:,} parameters from random weights, {run}. sentence-transformers embeds "
        f"the test with the exported folder equal to {f['export_largest_difference']:.0e}.",
        markdown_table(["dimension", "before", "after", "chance"], rows),
    ]


def towers(result: dict[str, Any]) -> list[str]:
    speeds = {"torch_over_ours": ".2f", "compile_scanned": ".1f", "compile_unrolled": ".1f"}
    rows = [
        [
            *(name, f"{f['largest_error']:.1e}"),
            *map(median_and_range, (f["torch"], f["ours"])),
            *(format(f[key], layout) for key, layout in speeds.items()),
        ]
        for name, f in result["figures"].items()
    ]
    inputs = result["inputs"]
    return [
        "## Full-size towers beside transformers",
        "Random weights at the published sizes. *Error* is the largest ‖ours - theirs‖ / ‖theirs‖ "
        f"over every layer and the output. Forward pass in {inputs['dtype']}: {inputs['qwen3']}; "
        f"{inputs.get('speech') or inputs['hubert']}. PyTorch runs eager with its default "
        "attention.",
        markdown_table(
            ["tower", "error", "PyTorch, s", "ours, s", "PyTorch / ours", "compile scanned, s",
             "compile unrolled, s"],
            rows,
        ),
    ]  # fmt: skip


def conversion(result: dict[str, Any]) -> list[str]:
    figures = result["figures"]
    rows = [
        [name, f"{f['median']:.1f}", f"{f['peak_bytes'] / 1e9:.2f}", f"{f['peak_over_file']:.2f}"]
        for name, f in figures.items()
        if isinstance(f, dict)
    ]
    equal = "byte-equal" if figures["round_trip_equal"] else "NOT equal"
    return [
        "## Converting the 0.6B-size checkpoint",
        f"{result['file_bytes'] / 1e9:.2f} GB of bfloat16, 310 tensors. After convert and export "
        f"the tensors are {equal}. Whole processes, start-up included.",
        markdown_table(["step", "seconds", "peak memory, GB", "peak / file"], rows),
    ]


def import_time(result: dict[str, Any]) -> list[str]:
    rows = [
        [name, f"{f['median']:.2f}", f"{f['ratio']:.2f}"] for name, f in result["figures"].items()
    ]
    return [
        "## Import time",
        "Fresh processes, alternating; the interpreter's own start is included.",
        markdown_table(["imported", "seconds", "/ jax and flax"], rows),
    ]


def search(result: dict[str, Any]) -> list[str]:
    figures, inputs = result["figures"], result["inputs"]
    faiss, base = result["faiss"], figures["peak_bytes"]["vectors"]
    rows = [
        [
            name,
            median_and_range(f),
            f"{f['median'] / figures['faiss']['median']:.2f}",
            f"{(figures['peak_bytes'][side] - base) / 1e9:.2f}",
        ]
        for side, name in (("faiss", "faiss `IndexFlatIP`"), ("ours", "`mrl_jax.inference.search`"))
        for f in (figures[side],)
    ]
    return [
        "## Exact search",
        f"The best {inputs['k']} of {inputs['documents']:,} random unit vectors of width "
        f"{inputs['width']} for {inputs['queries']:,} queries; both sides alternating in one "
        f"process. The same documents in the same order at {figures['same_documents']:.2%} of "
        f"places, scores apart by at most {figures['largest_difference']:.0e} (ours are rounded "
        f"once, from float64). faiss {faiss['version']} on {faiss['threads']} threads; its index "
        f"holds a copy of the vectors, which is in its memory.",
        markdown_table(
            ["search", "seconds", "/ faiss", "peak memory beside the vectors, GB"], rows
        ),
    ]


def funnel(result: dict[str, Any]) -> list[str]:
    inputs = result["inputs"]
    noise = (
        " Among such copies neighbours differ by the noise, which is alike in all coordinates: "
        "harder for a prefix than documents of different content."
    )
    rows = [
        [
            "full width, exact" if f["prefix"] is None else f"{f['prefix']} coordinates first",
            "" if f["prefix"] is None else f"{f['shortlist']:,}",
            f"{f['recall']:.3f}",
            f"{s['median']:.2f} ({s['min']:.2f} to {s['max']:.2f})",
            f"{f['over_full']:.2f}",
        ]
        for f in result["figures"]
        for s in (f["seconds"],)
    ]
    return [
        "## Funnel search",
        f"The best {inputs['k']} of {inputs['documents']:,} vectors of width {inputs['width']} for "
        f"{inputs['queries']} queries at once, float32: a prefix over all of them, then full width "
        f"over its short list; all alternating in one process. Recall is against exact search. "
        f"Vectors: {inputs['vectors']}.{noise if 'copies' in inputs['vectors'] else ''}",
        markdown_table(["search", "short list", "recall@10", "seconds", "/ full width"], rows),
    ]


def search_index(result: dict[str, Any]) -> list[str]:
    inputs = result["inputs"]
    rows = []
    for f in result["figures"]:
        name = f["precision"]
        if "prefix" in f:
            name = f"{name}, {f['prefix']} coordinates first"
        if "backend" in f:
            name = f"{name}, {f['backend']}"
        build = [f"{f['build_seconds']:.0f}", f"{f['build_core_seconds']:.0f}"]
        rows.append([name, *build, *_index_cells(f, f["bytes_of_vectors"])])
        if "alone" in f:
            rows.append(
                [f"{f['backend']} alone", "", "", *_index_cells(f["alone"], f["alone"]["bytes"])]
            )
    return [
        "## Search index",
        f"`SearchIndex` of {inputs['documents']:,} documents of {inputs['width']} coordinates, "
        f"loaded from the disk: the best {inputs['k']} for {inputs['queries']} queries at once; "
        f"the short list, where there is one, is of {inputs['shortlist']}. Building includes the "
        f"documents, their digests and writing; bytes are those of the vectors and of what finds "
        f"them. Alone: faiss's own file, asked for {inputs['k']}, without documents. Recall is "
        f"against exact search in float32. Peak memory of the process: "
        f"{result['peak_bytes'] / 1e9:.1f} GB. Vectors: {inputs['vectors']}. Other programs took "
        f"most of the machine: compare seconds of cores, summed over all, rather than seconds.",
        markdown_table(
            [
                "index",
                "build, seconds",
                "of cores",
                "vectors, MB",
                "recall@10",
                "search, seconds",
                "of cores",
            ],
            rows,
        ),
    ]


def serving(result: dict[str, Any]) -> list[str]:
    rows = [
        [name, *(f"{result[name][q]:.0f}" for q in ("p50", "p95", "p99"))]
        for name in ("alone", "16 clients", "text, alone")
    ]
    rates, memory, abuse = result["per_second"], result["resident_mb"], result["abuse"]
    return [
        "## A service",
        f"`mrl-jax serve` over {result['documents']:,} documents with {result['model']}: spoken "
        f"questions of two seconds, from the file to ten documents, in milliseconds. One by one "
        f"{rates['one by one']:.1f} a second, 16 clients at once {rates['16 clients']:.1f} "
        f"({result['times']:.1f} times). Wrong answers: {result['wrong_answers']}. Programs "
        f"compiled after the start, which took {result['start_seconds']:.0f} s: "
        f"{result['compilations_after_start']}. Memory before, during and after "
        f"{result['requests']:,} requests: {', '.join(f'{mb:,.0f}' for mb in memory)} MB. "
        f"{abuse['connections']:,} idle connections: a question during them is answered with "
        f"{abuse['during']}, after them with {abuse['after']}; a body too large with "
        f"{abuse['large_body']}.",
        markdown_table(["questions", "median", "95%", "99%"], rows),
    ]


def _index_cells(figures: dict[str, Any], size: int) -> list[str]:
    seconds = [median_and_range(figures["seconds"]), f"{figures['core_seconds']:.2f}"]
    return [f"{size / 1e6:.0f}", f"{figures['recall']:.3f}", *seconds]


def _footer(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"`{result['command']}`, {result['date']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; Python {machine['python']}, {versions}. "
        f"Target: {result['target']}."
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "demo": demo,
    "spoken_digits": spoken_digits,
    "text_stage": text_stage,
    "towers": towers,
    "conversion": conversion,
    "import_time": import_time,
    "start_up": report_start_up.start_up,
    "encode_bfloat16": functools.partial(report_encode.encode, dtype="bfloat16"),
    "encode_float32": functools.partial(report_encode.encode, dtype="float32"),
    "search": search,
    "funnel": funnel,
    "long_audio": report_long_audio.long_audio,
    "search_index": search_index,
    "serving": serving,
    "exports": report_exports.exports,
    **report_scale.TABLES,
    **report_curation.TABLES,
    **report_curation_models.TABLES,
}
"""Result name -> the function that writes its section, in the order of the page."""

OPTIONAL = report_curation_models.TABLES
"""Results whose section is left out until they are measured: they take hours, or data."""

MARKED_TABLES: dict[str, Callable[[Path], str]] = {
    "towers": towers_table,
    "demo": lambda root: markdown_table(*demo_rows(read_result(root, "demo")["figures"])),
    "spoken_digits": lambda root: markdown_table(
        *digits_rows(read_result(root, "spoken_digits")["figures"])
    ),
    "demo_systems": lambda root: report_table(root, "demo/compare", SYSTEMS_HEADING),
    "digits_systems": lambda root: report_table(root, "digits/compare", SYSTEMS_HEADING),
}
"""Name in a mark -> the function that writes its table."""

if __name__ == "__main__":
    sys.exit(main())
