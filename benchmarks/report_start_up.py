"""The table of start-up times, from what `benchmarks/start_up.py` records."""

from typing import Any

from markdown_tables import markdown_table, median_and_range


def start_up(result: dict[str, Any]) -> list[str]:
    """A row for each dtype, side and state."""
    rows = [
        [
            f"{dtype}: {name}",
            median_and_range(spans["process"]),
            median_and_range(spans["load"]) if "load" in spans else "",
            median_and_range(spans["cpu"]),
        ]
        for dtype, figures in result["figures"].items()
        for name, spans in figures.items()
        if isinstance(spans, dict) and "over" not in name
    ]
    ratios = [
        f"{dtype}, {state}: {figures[f'ours over theirs, {state}']['process']:.2f} and "
        f"{figures[f'ours over theirs, {state}']['load']:.2f}, CPU "
        f"{figures[f'ours over theirs, {state}']['cpu']:.2f}"
        for dtype, figures in result["figures"].items()
        for state in ("cold", "warm")
    ]
    return [
        "## Start-up",
        "Seconds to the first vector of one text by a model of Qwen3-0.6B and HuBERT-base, random "
        "weights, from the process's start and from the load on, imports excluded. The text tower "
        "is stored in bfloat16, and computed in the dtype named. sentence-transformers loads the "
        "text tower alone; ours also the speech tower, and compares all digests. Cold: "
        f"{result['inputs']['cold']}. `mrl-jax search` is the whole command.",
        markdown_table(["side", "from the start", "from the load on", "CPU seconds"], rows),
        f"Ours / theirs from the start and from the load on: {'; '.join(ratios)}.",
    ]
