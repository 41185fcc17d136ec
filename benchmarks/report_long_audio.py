"""The table of long audio, from what `benchmarks/long_audio.py` records."""

from typing import Any

from markdown_tables import markdown_table


def long_audio(result: dict[str, Any]) -> list[str]:
    """A row for each length: in blocks, and plainly where that ran."""
    rows = []
    for row in result["figures"]:
        sides = [_side(row.get(side, {})) for side in ("blocks", "plain")]
        error = f"{row['error']:.0e}" if "error" in row else ""
        estimated = "" if row["whole"] else " (12 times one layer)"
        rows.append(
            [
                f"{row['minutes']:g} min",
                sides[0][0],
                sides[0][1] + estimated,
                *sides[1],
                error,
            ]
        )
    return [
        "## Long audio",
        f"{result['tower']}, float32, one clip of noise; each row is a process of its own. "
        "*Plain* holds the scores of all pairs of frames. *CPU* is processor time over all cores, "
        "which another load on the machine hardly changes. *Error* is ‖blocks - plain‖ / ‖plain‖.",
        markdown_table(
            ["audio", "peak, GB", "seconds; CPU", "plain: peak, GB", "seconds; CPU", "error"], rows
        ),
    ]


def _side(figures: dict[str, Any]) -> tuple[str, str]:
    if "seconds" not in figures:
        return "", figures.get("stopped", "")
    peak = f"{figures['peak_bytes'] / 1e9:.2f}"
    return peak, f"{figures['seconds']:,.0f}; {figures['cpu_seconds']:,.0f}"
