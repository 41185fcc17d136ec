"""Transcripts against recordings: wrong ones found by score, and long recordings cut up.

    python benchmarks/curation_alignment.py --demo DEMO --data DATA --claims CLAIMS

DEMO is the folder that `mrl-jax demo` made, DATA the folder of the data sets, of which mboshi is
read, and CLAIMS that of `python benchmarks/claims.py`, with the recogniser of Mboshi. Both are
measured on recordings that their recognisers never saw.

swapped: a tenth of the transcripts trade places; the rows that the stage drops by its default
threshold should be those. long: the same clips are joined with pauses of 0.3 to 1 s, and the
text is their transcripts in that order; a boundary is the first or last sound of a clip by its
level. hour: as many clips of Mboshi as an hour holds, some of which its recogniser was trained on,
for time and memory.
"""

import argparse
import dataclasses
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import record

from mrl_jax.core.paths import user_path
from mrl_jax.curation.align import MIN_SCORE, Align, AlignConfig
from mrl_jax.curation.rows import Row
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.demo.digits import fade_ends

RATE = 16_000
WITHIN = 0.2
SWAPPED = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("demo", "data", "claims"):
        parser.add_argument(f"--{name}", type=user_path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    demo = demo_rows(args.demo / "world" / "test")
    unseen, seen = mboshi_rows(args.data / "mboshi")
    recognisers = {
        "demo": args.demo / "towers" / "speech",
        "mboshi": args.claims / "mboshi" / "all" / "ctc" / "tower",
    }
    rng = np.random.default_rng(args.seed)
    worlds = {"demo": demo, "mboshi": unseen}
    figures: dict[str, Any] = {
        "target": "recall and precision of swapped transcripts above 0.95 (demo); boundaries "
        f"within {WITHIN} s",
        "default_threshold": MIN_SCORE,
        "swapped": {n: measure_swapped(recognisers[n], rows, rng) for n, rows in worlds.items()},
        "long": {n: measure_long(recognisers[n], rows, rng) for n, rows in worlds.items()},
        "hour": {},
    }
    record("curation_alignment", figures)
    hour = measure_long(recognisers["mboshi"], [*unseen, *seen], rng, seconds=3590)
    record("curation_alignment", {**figures, "hour": hour})


def demo_rows(folder: Path) -> list[Row]:
    queries = map(json.loads, (folder / "queries.jsonl").open(encoding="utf-8"))
    return [
        Row(id=row["_id"], audio=str(folder / row["audio"]), transcript=row["transcript"])
        for row in queries
    ]


def mboshi_rows(folder: Path) -> tuple[list[Row], list[Row]]:
    """Rows of the dev split, which no training saw, and those of the train split."""
    parts: dict[str, list[Row]] = {"dev": [], "train": []}
    for row in map(json.loads, (folder / "table.jsonl").open(encoding="utf-8")):
        audio, transcript = str(folder / row["audio"]), row["transcript"]
        parts[row["split"]].append(Row(id=row["id"], audio=audio, transcript=transcript))
    return parts["dev"], parts["train"]


def measure_swapped(
    recogniser: Path, rows: Sequence[Row], rng: np.random.Generator
) -> dict[str, Any]:
    """Recall and precision of the rows whose transcripts traded places."""
    stage = Align(AlignConfig(recogniser=str(recogniser)))
    chosen = rng.choice(len(rows), round(SWAPPED * len(rows)), replace=False)
    transcripts = [row.transcript for row in rows]
    for number, row in enumerate(chosen):
        transcripts[row] = rows[chosen[(number + 1) % len(chosen)]].transcript
    wrong = np.asarray([a != row.transcript for a, row in zip(transcripts, rows, strict=True)])
    begun = time.perf_counter()
    found, scores = np.zeros(len(rows), bool), np.full(len(rows), -np.inf)
    for number, (row, text) in enumerate(zip(rows, transcripts, strict=True)):
        try:
            (out,) = stage.apply(dataclasses.replace(row, transcript=text))
        except Exception:  # Too long a transcript: the pipeline drops the row.
            found[number] = True
            continue
        found[number] = out.dropped is not None
        scores[number] = float(out.measured["align.score"])
    right, bad = scores[~wrong], scores[wrong]
    return {
        "rows": len(rows),
        "swapped": int(wrong.sum()),
        "recall": round(float(found[wrong].mean()), 4),
        "precision": round(float(wrong[found].mean()), 4),
        "auc": round(float((right[:, None] > bad).mean()), 4),
        "right_scores": quantiles(right),
        "swapped_scores": quantiles(bad[np.isfinite(bad)]),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def measure_long(
    recogniser: Path,
    rows: Sequence[Row],
    rng: np.random.Generator,
    *,
    seconds: float = 1e9,
) -> dict[str, Any]:
    """Boundaries of clips that were joined to one recording."""
    parts, edges, texts, at = [], [], [], 0
    for row in rows:
        clip = fade_ends(load_clip(str(row.audio), RATE))
        pause = rng.normal(scale=1e-4, size=int(rng.uniform(0.3, 1.0) * RATE)).astype(np.float32)
        if (at + len(pause) + len(clip)) / RATE > seconds:
            break
        at += len(pause)
        first, last = speech_edges(clip)
        edges.append((at / RATE + first, at / RATE + last))
        at += len(clip)
        parts += [pause, clip]
        texts.append(row.transcript or "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        soundfile.write(path, np.concatenate(parts), RATE)
        whole = Row(id="long", audio=str(path), transcript="\n".join(texts))
        config = AlignConfig(recogniser=str(recogniser), cut="sentences", min_score=None)
        stage = Align(config)
        begun = time.perf_counter()
        out = stage.apply(whole)
        took = time.perf_counter() - begun
    found = np.asarray([(row.start, row.end) for row in out])
    true = np.asarray(edges)
    errors = found - true
    inside = (found[1:, 0] > true[:-1, 1] - WITHIN) & (found[:-1, 1] < true[1:, 0] + WITHIN)
    return {
        "minutes": round(at / RATE / 60, 1),
        "sentences": len(out),
        "boundaries_within": round(float((np.abs(errors) <= WITHIN).mean()), 4),
        "starts_within": round(float((np.abs(errors[:, 0]) <= WITHIN).mean()), 4),
        "ends_within": round(float((np.abs(errors[:, 1]) <= WITHIN).mean()), 4),
        "neighbours_left_out": round(float(inside.mean()), 4),
        "start_errors": quantiles(errors[:, 0]),
        "end_errors": quantiles(errors[:, 1]),
        "seconds": round(took, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def speech_edges(clip: Any) -> tuple[float, float]:
    """Seconds of its first and last sound, no more than 20 dB below the loudest, in 30 ms."""
    size = RATE * 3 // 100
    blocks = clip[: clip.size // size * size].reshape(-1, size)
    power = np.square(blocks, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > power.max() / 100)
    return loud[0] * size / RATE, (loud[-1] + 1) * size / RATE


def quantiles(values: Any) -> dict[str, float]:
    """5 %, median, 95 %."""
    ends = np.quantile(values, (0.05, 0.5, 0.95)) if len(values) else (0.0, 0.0, 0.0)
    return {name: round(float(x), 3) for name, x in zip(("5%", "50%", "95%"), ends, strict=True)}


if __name__ == "__main__":
    main()
