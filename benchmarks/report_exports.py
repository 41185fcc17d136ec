"""The table of exported models, from what `benchmarks/exports.py` records."""

from typing import Any

from markdown_tables import markdown_table

INPUTS = ("speech", "speech, prompt", "text", "text, prompt")


def exports(result: dict[str, Any]) -> list[str]:
    """A row for each model and form."""
    rows = [
        [f"{model}: {form}", *(f"{errors[key]:.0e}" for key in INPUTS)]
        for model, forms in result["figures"].items()
        for form, errors in forms.items()
    ]
    return [
        "## Exported models",
        "The largest difference of a coordinate between vectors of `Embedder` and those of an "
        "[exported model](exports.md), in float32, over speech of mixed lengths or texts and "
        "every trained dim. The first models are tiny, with random weights. *Different inputs* "
        "is how far apart vectors of two inputs are.",
        markdown_table(["model: form", *INPUTS], rows),
    ]
