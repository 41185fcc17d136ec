"""Pairs of speech and text, mined by a trained model among texts that answer nothing.

    python benchmarks/curation_mining.py --demo DEMO [--data DATA --claims CLAIMS]

DEMO is the folder that `mrl-jax demo` made: its test recordings, whose sentences and voices no
training saw, and those of its validation, without their texts, and the texts shuffled among
10,000 others: the other sentences of its grammar, and two of those at a time. With DATA and CLAIMS
also Mboshi (see `python benchmarks/claims.py`): its dev split among the French sentences of train
and of NTREX-128. Precision and recall of the true pairs by the default threshold of stage `mine`,
and at others.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from mrl_jax.core.paths import user_path
from mrl_jax.curation.mine import MIN_MARGIN, Mine, MineConfig
from mrl_jax.curation.rows import Row
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.demo.grammar import phrases
from mrl_jax.demo.world import TASK

DISTRACTORS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("demo", "data", "claims"):
        parser.add_argument(f"--{name}", type=user_path, required=name == "demo")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    worlds: dict[str, Any] = {}
    for part in ("test", "validation"):
        clips, texts = demo_set(args.demo / "world" / part)
        others = grammar_texts(texts, rng)
        found = measure(args.demo / "model", clips, texts, others, rng, task=TASK)
        worlds[f"demo, {part}"] = found
    if args.data and args.claims:
        clips, texts, others = mboshi_set(args.data)
        model = args.claims / "mboshi" / "all" / "linear-0"
        worlds["mboshi"] = measure(model, clips, texts, others, rng)
    figures = {
        "target": "precision of mined pairs above 0.95 at the default threshold (the demo's test, "
        "where it was chosen)",
        "default_threshold": MIN_MARGIN,
        "worlds": worlds,
    }
    record("curation_mining", figures)


def demo_set(folder: Path) -> tuple[list[Row], list[str]]:
    """Recordings, and the text of each."""
    queries = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
    corpus = map(json.loads, (folder / "corpus.jsonl").open(encoding="utf-8"))
    text_of = {f"q{row['_id'][1:]}": row["text"] for row in corpus}
    clips = [Row(id=row["_id"], audio=str(folder / row["audio"])) for row in queries]
    return clips, [text_of[row.id] for row in clips]


def grammar_texts(true: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The other sentences of the demo's grammar, and two of them at a time."""
    single = sorted({phrase.french for phrase in phrases()} - set(true))
    pairs = rng.choice(len(single), (DISTRACTORS - len(single), 2))
    return [*single, *(f"{single[a]} {single[b]}" for a, b in pairs)]


def mboshi_set(data: Path) -> tuple[list[Row], list[str], list[str]]:
    """Recordings of dev, the text of each, and other French sentences."""
    folder = data / "mboshi"
    rows = [json.loads(line) for line in (folder / "table.jsonl").open(encoding="utf-8")]
    dev = [row for row in rows if row["split"] == "dev"]
    clips = [Row(id=row["id"], audio=str(folder / row["audio"])) for row in dev]
    texts = [row["text"] for row in dev]
    news = (data / "ntrex" / "fra.txt").read_text(encoding="utf-8").splitlines()
    own = {plain_text(text) for text in texts}
    others = {row["text"] for row in rows if row["split"] == "train"} | set(news)
    return clips, texts, sorted(text for text in others if plain_text(text) not in own)


def measure(
    model: Path,
    clips: Sequence[Row],
    texts: Sequence[str],
    others: Sequence[str],
    rng: np.random.Generator,
    *,
    task: str = "",
) -> dict[str, Any]:
    """Mine with no threshold, then count the true pairs above each."""
    chosen = rng.choice(len(others), min(DISTRACTORS, len(others)), replace=False)
    candidates = [*dict.fromkeys(texts), *(others[i] for i in chosen)]
    order = rng.permutation(len(candidates))
    rows = [clips[i] for i in rng.permutation(len(clips))]
    rows += [Row(id=f"t{i}", text=candidates[i]) for i in order]
    begun = time.perf_counter()
    out = Mine(MineConfig(model=str(model), task=task, min_margin=0.0)).apply(rows)
    seconds = time.perf_counter() - begun
    truth = {row.id: text for row, text in zip(clips, texts, strict=True)}
    paired = [row for row in out if row.audio is not None and row.text is not None]
    margins = np.asarray([float(row.measured["mine.margin"]) for row in paired])
    right = np.asarray([plain_text(str(r.text)) == plain_text(truth[r.id]) for r in paired])
    thresholds = sorted({1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6, MIN_MARGIN})
    # A text is used once, so that of clips with the same text only one can be paired.
    possible = len(set(map(plain_text, texts)))
    return {
        "clips": len(clips),
        "true_texts": possible,
        "distractors": len(chosen),
        "seconds": round(seconds, 1),
        "at": {
            f"{least:g}": {
                "pairs": int((margins >= least).sum()),
                "precision": round(float(right[margins >= least].mean()), 4)
                if (margins >= least).any()
                else None,
                "recall": round(float((right & (margins >= least)).sum() / possible), 4),
            }
            for least in thresholds
        },
    }


if __name__ == "__main__":
    main()
