"""Texts in a wrong language: the trained identifier alone, and with lingua beside it.

    python benchmarks/curation_languages.py --faults OUT

OUT is the folder of `python benchmarks/curation_faults.py`, whose planted rows are read: one text
in twenty is English or Wolof among French ones, and its row says that it is French.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from common import record
from curation_worlds import read_lines

from mrl_jax.core.paths import user_path
from mrl_jax.curation.languages import Languages, LanguagesConfig
from mrl_jax.curation.rows import Row

LEAST = 0.3
"""Of `expected`: rows below would be dropped."""
SPOKEN = {"demo": "wol", "mboshi": "mdw"}
LINGUA = ("fra", "eng")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=user_path, required=True)
    folder = parser.parse_args().faults
    figures = {
        world: {
            "trained alone": measure(folder / world, spoken, ()),
            f"with lingua for {' and '.join(LINGUA)}": measure(folder / world, spoken, LINGUA),
        }
        for world, spoken in SPOKEN.items()
    }
    print(json.dumps(figures, indent=1))
    record("curation_languages", {"target": "recall and precision of 0.95", "figures": figures})


def measure(folder: Path, spoken: str, lingua: tuple[str, ...]) -> dict[str, Any]:
    """Recall and precision of the rows whose expected language is improbable."""
    kinds = json.loads((folder / "kinds.json").read_text(encoding="utf-8"))
    rows = [
        Row(
            id=row["id"],
            text=row["text"],
            transcript=row["transcript"],
            language=spoken,
            text_language="fra",
        )
        for row in read_lines(folder / "curated_from.jsonl")
    ]
    training = {name: str(folder / f"{name}.txt") for name in ("eng", "wol")}
    begun = time.process_time()
    found = Languages(LanguagesConfig(training=training, lingua=lingua)).apply(rows)
    seconds = time.process_time() - begun
    low = [row for row in found if float(row.measured.get("languages.expected", 1)) < LEAST]
    right = sum(kinds.get(row.id) == "foreign" for row in low)
    planted = sum(kind == "foreign" for kind in kinds.values())
    return {
        "rows": len(rows),
        "planted": planted,
        "found": len(low),
        "recall": round(right / planted, 4),
        "precision": round(right / max(len(low), 1), 4),
        "core_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
