"""Tables of Markdown, and how timings are written in them."""

from collections.abc import Mapping, Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; all columns but the first are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def median_and_range(timing: Mapping[str, float]) -> str:
    """`median (min to max)` of a summary that `common.summarize` made."""
    return f"{timing['median']:.2f} ({timing['min']:.2f} to {timing['max']:.2f})"
