"""Write docs/benchmarks.md, README's table and docs/parity.png from the last runs' JSON.

python benchmarks/report.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import report_scale
from common import RESULTS
from report_scale import markdown_table

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "parity.png"
README = ROOT / "README.md"
TABLE_MARKS = ("<!-- table: benchmarks/report.py -->", "<!-- end of table -->")
LIMIT = 1e-5


def main() -> None:
    parts = [
        "# Benchmarks",
        "Every table is written by `python benchmarks/report.py` from `benchmarks/results/`; "
        "`make bench` runs again what needs no data. Ratios compare two sides of one run on one "
        "machine; absolute times are that machine's.",
    ]
    for name, write in (
        ("demo", demo),
        ("spoken_digits", spoken_digits),
        ("text_stage", text_stage),
        ("towers", towers),
        ("conversion", conversion),
        ("import_time", import_time),
        ("search", search),
        ("funnel", funnel),
        *report_scale.TABLES.items(),
    ):
        path = RESULTS / f"{name}.json"
        if path.is_file():
            result = json.loads(path.read_text())
            parts += [*write(result), _footer(result)]
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text("\n\n".join(parts) + "\n")
    result = json.loads((RESULTS / "towers.json").read_text())
    draw_parity(result)
    fill_readme(result)
    for name, rows in (("demo", demo_rows), ("spoken_digits", digits_rows)):
        path = RESULTS / f"{name}.json"
        if path.is_file():
            marks = f"<!-- {name}: benchmarks/report.py -->", f"<!-- end of {name} -->"
            fill(marks, markdown_table(*rows(json.loads(path.read_text())["figures"])))
    print(*(f"wrote {path.relative_to(ROOT)}" for path in (DOCUMENT, PICTURE, README)), sep="\n")


def draw_parity(result: dict[str, Any]) -> None:
    """Error of every state of every full-size tower, on one logarithmic axis."""
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
    figure.savefig(PICTURE, dpi=160)


def fill_readme(result: dict[str, Any]) -> None:
    """Put the towers' figures between the marks in README.md."""
    rows = [
        [
            name,
            f"{f['largest_error']:.0e}",
            f"{f['ours']['median']:.1f} s",
            f"{f['torch_over_ours']:.2f}",
            f"{f['compile_scanned']:.0f} s, {f['compile_unrolled']:.0f} s",
        ]
        for name, f in result["figures"].items()
    ]
    header = [
        "full-size tower",
        "worst layer against PyTorch",
        "forward pass",
        "PyTorch's time / ours",
        "compile: scanned, unrolled",
    ]
    fill(TABLE_MARKS, markdown_table(header, rows))


def fill(marks: tuple[str, str], table: str) -> None:
    """Put a table between two marks of README.md."""
    start, end = marks
    before, rest = README.read_text().split(start)
    _, after = rest.split(end)
    README.write_text(f"{before}{start}\n{table}\n{end}{after}")


def demo_rows(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["dimension", "nDCG@10", "chance"]
    chance = f"{figures['chance']:.4f}"
    return header, [[dim, f"{x:.3f}", chance] for dim, x in figures["ndcg@10"].items()]


def digits_rows(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Known speakers, each speaker left out, and their mean: nDCG@10 at each dimension."""
    dims = list(next(iter(figures.values()))["ndcg@10"])
    left_out = {name: f for name, f in figures.items() if name != "known"}
    named = {"unseen takes of known speakers": figures["known"]} if "known" in figures else {}
    rows = [
        [name, *(f"{f['ndcg@10'][dim]:.3f}" for dim in dims), f"{f['chance']:.4f}"]
        for name, f in [*named.items(), *((f"{n}, never heard", f) for n, f in left_out.items())]
    ]
    if len(left_out) > 1:
        means = [sum(f["ndcg@10"][dim] for f in left_out.values()) / len(left_out) for dim in dims]
        chance = next(iter(left_out.values()))["chance"]
        rows.append(["mean of never heard", *(f"{mean:.3f}" for mean in means), f"{chance:.4f}"])
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
    return [
        "## Text stage",
        f"nDCG@10 of Wolof sentences that ask for their French ones: {f['data']}. A tower of "
        f"{f['parameters']:,} parameters from random weights, {f['tokenizer']}, {f['steps']:,} "
        f"steps of {f['batch']}, {f['seconds']:.0f} s. sentence-transformers embeds the test with "
        f"the exported folder the same to {f['export_largest_difference']:.0e}.",
        markdown_table(["dimension", "before", "after", "chance"], rows),
    ]


def towers(result: dict[str, Any]) -> list[str]:
    rows = [
        [
            name,
            f"{f['largest_error']:.1e}",
            f"{f['torch']['median']:.2f} ({f['torch']['min']:.2f} to {f['torch']['max']:.2f})",
            f"{f['ours']['median']:.2f} ({f['ours']['min']:.2f} to {f['ours']['max']:.2f})",
            f"{f['torch_over_ours']:.2f}",
            f"{f['compile_scanned']:.1f}",
            f"{f['compile_unrolled']:.1f}",
        ]
        for name, f in result["figures"].items()
    ]
    inputs = result["inputs"]
    return [
        "## Full-size towers beside transformers",
        "Random weights at the published sizes. *Error* is the largest ‖ours - theirs‖ / ‖theirs‖ "
        f"over every layer and the output. Forward pass in {inputs['dtype']}: {inputs['qwen3']}; "
        f"{inputs['hubert']}. PyTorch runs eager with its default attention.",
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
        "Fresh processes in turn; the interpreter's own start is included.",
        markdown_table(["imported", "seconds", "/ jax and flax"], rows),
    ]


def search(result: dict[str, Any]) -> list[str]:
    figures, inputs = result["figures"], result["inputs"]
    faiss, base = result["faiss"], figures["peak_bytes"]["vectors"]
    rows = [
        [
            name,
            f"{f['median']:.2f} ({f['min']:.2f} to {f['max']:.2f})",
            f"{f['median'] / figures['faiss']['median']:.2f}",
            f"{(figures['peak_bytes'][side] - base) / 1e9:.2f}",
        ]
        for side, name in (("faiss", "faiss `IndexFlatIP`"), ("ours", "`evaluation.search`"))
        for f in (figures[side],)
    ]
    return [
        "## Exact search",
        f"The best {inputs['k']} of {inputs['documents']:,} random unit vectors of width "
        f"{inputs['width']} for {inputs['queries']:,} queries; both sides in turn in one process. "
        f"The same documents in the same order at {figures['same_documents']:.2%} of places, "
        f"scores apart by at most {figures['largest_difference']:.0e} (ours are rounded once, "
        f"from float64). faiss {faiss['version']} on {faiss['threads']} threads; its index holds "
        f"a copy of the vectors, which is in its memory.",
        markdown_table(
            ["search", "seconds", "/ faiss", "peak memory beside the vectors, GB"], rows
        ),
    ]


def funnel(result: dict[str, Any]) -> list[str]:
    inputs = result["inputs"]
    noise = (
        " Among such copies neighbours differ by the noise, which is alike in all coordinates: "
        "harder for a prefix than documents that differ in what they say."
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
        f"over its short list; all in turn in one process. Recall is against exact search. "
        f"Vectors: {inputs['vectors']}.{noise if 'copies' in inputs['vectors'] else ''}",
        markdown_table(["search", "short list", "recall@10", "seconds", "/ full width"], rows),
    ]


def _footer(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"`{result['command']}`, {result['date']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; Python {machine['python']}, {versions}. "
        f"Target: {result['target']}."
    )


if __name__ == "__main__":
    main()
