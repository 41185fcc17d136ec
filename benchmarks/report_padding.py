"""The sections on padding and packing of short texts in docs/benchmarks.md."""

from typing import Any

from markdown_tables import markdown_table, median_and_range


def padding(result: dict[str, Any]) -> list[str]:
    """A row for each kind of step and batch: padding now, packed, and what is saved."""
    inputs, rows = result["inputs"], []
    for kind, sizes in result["figures"].items():
        for size, one in sizes.items():
            values = (one[name] for name in ("padding", "padding_packed", "saved"))
            rows.append([f"{size} {kind}", *(f"{value:.1%}" for value in values)])
    return [
        "## Padding of short texts",
        f"Share of padding among the text tower's places, as batches are made and if whole texts "
        f"were packed into rows of {inputs['row']} or more. *Saved*: of all places of the tower in "
        "a step, those of speech included. "
        f"{inputs['pairs']}; {inputs['clips']}; {inputs['tokenizer']}. Counted, not timed.",
        markdown_table(["batch", "padding", "packed", "saved"], rows),
    ]


def packing(result: dict[str, Any]) -> list[str]:
    """Seconds of a step in both forms, and the places that packing saves."""
    inputs, step, places = result["inputs"], result["figures"]["step"], result["figures"]["places"]
    rows = [[form, median_and_range(step[form])] for form in ("padded", "packed")]
    saved = ", ".join(
        f"{1 - one['packed'] / one['padded']:.0%} of {pairs} pairs" for pairs, one in places.items()
    )
    return [
        "## Packing in the text stage",
        f"Seconds of a step on {inputs['batch']} pairs of {inputs['pairs']} with "
        f"{inputs['tokenizer']}: {inputs['tower']}; both forms in turn. Padded takes "
        f"{step['padded_over_packed']['total']:.2f} times as long as packed, and losses are at "
        f"most {step['losses_apart']:.0e} of themselves apart. Places that packing saves: {saved}.",
        markdown_table(["form", "seconds"], rows),
    ]
