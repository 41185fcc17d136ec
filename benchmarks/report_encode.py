"""The table of encoding a corpus, from what `benchmarks/encode.py` records."""

from typing import Any

from markdown_tables import markdown_table, median_and_range


def encode(result: dict[str, Any]) -> list[str]:
    """A row for texts and for clips."""
    inputs, figures = result["inputs"], result["figures"]
    rows = [
        [
            f"{inputs[kind]['count']} {kind}",
            median_and_range(figures[kind]["ours"]),
            f"{figures[kind]['ours, compiling']:.1f}",
            median_and_range(figures[kind]["torch"]),
            f"{figures[kind]['torch_over_ours']:.2f}",
        ]
        for kind in ("texts", "clips")
    ]
    texts, clips = inputs["texts"], inputs["clips"]
    return [
        "## Encoding a corpus",
        "Seconds by Qwen3-0.6B and HuBERT-base with the linear head, random weights, in "
        f"{inputs['dtype']}: texts of {texts['words']:,} words in all, the longest of "
        f"{texts['longest']}; clips of {clips['seconds']:.0f} s in all, the longest of "
        f"{clips['longest']:.1f} s. PyTorch: sentence-transformers for texts, transformers' towers "
        "for clips, sorted by length, in the batch size that was the fastest on a sample. Ours are "
        "the defaults of `Embedder`, whose batches of few clips are mostly padding: the target is "
        "missed. Both sides' texts: cosine at least "
        f"{figures['smallest_cosine_of_texts']:.6f}.",
        markdown_table(["corpus", "ours", "ours, compiling", "PyTorch", "PyTorch / ours"], rows),
    ]
