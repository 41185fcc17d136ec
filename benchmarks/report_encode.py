"""The tables of encoding a corpus, from what `benchmarks/encode.py` records."""

from typing import Any

from markdown_tables import markdown_table, median_and_range

TARGET = 1.3


def encode(result: dict[str, Any], *, dtype: str) -> list[str]:
    """A row for texts and one for clips."""
    inputs, figures = result["inputs"], result["figures"]
    texts, clips = inputs["texts"], inputs["clips"]
    kinds = ("texts", "clips")
    rows = [row(f"{inputs[kind]['count']:,} {kind}", figures[kind]) for kind in kinds]
    ratios = {kind: figures[kind]["torch_over_ours"] for kind in kinds}
    compared = "second call" if inputs["calls"] == 2 else "first and only call"
    return [
        f"## Encoding a corpus in {dtype}",
        "Seconds by Qwen3-0.6B and HuBERT-base with the linear head, random weights: texts of "
        f"{texts['tokens']:,} tokens in all, the longest of {texts['longest']}; clips of "
        f"{clips['seconds']:,.0f} s in all, the longest of {clips['longest']:.1f} s. PyTorch: "
        "sentence-transformers for texts, transformers' towers for clips, sorted by length, in the "
        "batch size that was the fastest on a sample. Ours are the defaults of `Embedder`; the "
        "first call traces and compiles a program for each shape, here with an empty cache, and "
        f"the {compared} is compared. The target of {TARGET} is {reached(ratios)}. Cosine of texts "
        f"with PyTorch's: at least {figures['smallest_cosine_of_texts']:.6f}.",
        markdown_table(["corpus", "ours", "ours, first call", "PyTorch", "PyTorch / ours"], rows),
    ]


def reached(ratios: dict[str, float]) -> str:
    kinds = [kind for kind, ratio in ratios.items() if ratio >= TARGET]
    if len(kinds) == len(ratios):
        return "reached"
    return f"reached by {' and '.join(kinds)} alone" if kinds else "missed"


def row(name: str, one: dict[str, Any]) -> list[str]:
    """Texts or clips."""
    return [
        name,
        median_and_range(one["ours"]),
        f"{one['ours, first']:.1f}",
        median_and_range(one["torch"]),
        f"{one['torch_over_ours']:.2f}",
    ]
