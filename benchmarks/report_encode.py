"""The table of encoding a corpus, from what `benchmarks/encode.py` records."""

from typing import Any

from markdown_tables import markdown_table, median_and_range

TARGET = 1.3


def encode(result: dict[str, Any]) -> list[str]:
    """A row for texts and for clips in each dtype."""
    inputs, figures = result["inputs"], result["figures"]
    texts, clips = inputs["texts"], inputs["clips"]
    rows = [
        row(f"{inputs[kind]['count']} {kind}, {dtype}", figures[kind][dtype])
        for kind in ("texts", "clips")
        for dtype in ("float32", "bfloat16")
    ]
    fastest = {kind: figures[kind]["fastest_torch_over_fastest_ours"] for kind in inputs}
    cosines = figures["smallest_cosine_of_texts"]
    return [
        "## Encoding a corpus",
        "Seconds by Qwen3-0.6B and HuBERT-base with the linear head, random weights: texts of "
        f"{texts['words']:,} words in all, the longest of {texts['longest']}; clips of "
        f"{clips['seconds']:.0f} s in all, the longest of {clips['longest']:.1f} s. PyTorch: "
        "sentence-transformers for texts, transformers' towers for clips, sorted by length, in the "
        "batch size that was the fastest on a sample. Ours are the defaults of `Embedder`; the "
        "first call traces and compiles a program for each shape, here with an empty cache. The "
        f"fastest of PyTorch's over the fastest of ours: {fastest['texts']:.2f} for texts, "
        f"{fastest['clips']:.2f} for clips: the target is "
        f"{reached(fastest)}. Cosine of texts with PyTorch's in float32: at least "
        f"{cosines['float32']:.6f} in float32, {cosines['bfloat16']:.4f} in bfloat16.",
        markdown_table(["corpus", "ours", "ours, first call", "PyTorch", "PyTorch / ours"], rows),
    ]


def reached(ratios: dict[str, float]) -> str:
    return "reached" if min(ratios.values()) >= TARGET else "missed"


def row(name: str, one: dict[str, Any]) -> list[str]:
    """One corpus in one dtype."""
    return [
        name,
        median_and_range(one["ours"]),
        f"{one['ours, first']:.1f}",
        median_and_range(one["torch"]),
        f"{one['torch_over_ours']:.2f}",
    ]
