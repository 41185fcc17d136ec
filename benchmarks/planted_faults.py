"""Faults that are put into a training set on purpose, so that what finds them can be counted."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mrl_jax.curation.rows import Row
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.data.audio.degrade import Condition, degrade, generator_of
from mrl_jax.data.audio.encode import quantize
from mrl_jax.data.text.normalize import plain_text

RATE = 16_000
SHARES = {"swapped": 0.10, "duplicate": 0.05, "foreign": 0.05, "noisy": 0.05, "leaked": 0.05}
"""Of the training rows; of leaked ones, of the held-out rows."""
SNR_DB = 0.0

FINDS = {
    "wrong_language": "foreign",
    "noise": "noisy",
    "leakage": "leaked",
    "duplicates": "duplicate",
    "align": "swapped",
}
"""Stage that drops rows: the fault that it is to find."""
SOURCE = "w/"
"""Before the ids of curated rows."""

ManifestRow = dict[str, Any]


@dataclass(frozen=True)
class Planted:
    """A training set with faults.

    Attributes:
        clean: the training rows as they were.
        faulty: with faults; copies and leaks stand at the end.
        held_out: untouched.
        kinds: id of a faulty row: kind of its fault.
    """

    clean: list[ManifestRow]
    faulty: list[ManifestRow]
    held_out: list[ManifestRow]
    kinds: dict[str, str]


def plant(
    train: Sequence[ManifestRow],
    held_out: Sequence[ManifestRow],
    foreign: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
) -> Planted:
    """Give each kind of fault to other rows, drawn by the seed.

    Swapped rows have text and transcript of another swapped row. Copies and leaks are other files:
    half of them the same bytes, half encoded anew, their texts in capitals or without their marks.

    Args:
        train, held_out: rows of a manifest, recordings as absolute paths.
        foreign: texts in a language that no document is in.
        folder: that gets the recordings that are made.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    order = list(range(len(train)))
    rng.shuffle(order)
    chosen: dict[str, list[int]] = {}
    for kind in ("swapped", "duplicate", "foreign", "noisy"):
        count = round(SHARES[kind] * len(train))
        chosen[kind], order = order[:count], order[count:]
    rows = [dict(row) for row in train]
    _swap(rows, chosen["swapped"])
    for number, place in enumerate(chosen["foreign"]):
        rows[place]["text"] = foreign[number % len(foreign)]
    for place in chosen["noisy"]:
        rows[place]["audio"] = _noisy(rows[place], folder, seed)
    kinds = {rows[i]["id"]: kind for kind in ("swapped", "foreign", "noisy") for i in chosen[kind]}
    leaks = rng.sample(list(held_out), round(SHARES["leaked"] * len(held_out)))
    for kind, some in (("duplicate", [rows[i] for i in chosen["duplicate"]]), ("leaked", leaks)):
        for number, row in enumerate(some):
            copy = _copied(row, f"{kind}-{number:04}", folder, encode=number % 2 == 1)
            kinds[copy["id"]] = kind
            rows.append(copy)
    return Planted([dict(row) for row in train], rows, [dict(row) for row in held_out], kinds)


def _swap(rows: list[ManifestRow], places: Sequence[int]) -> None:
    """Hand texts round, each to the next row that says something else."""
    texts = [(rows[place]["text"], rows[place]["transcript"]) for place in places]
    order = sorted(range(len(places)), key=lambda i: plain_text(texts[i][1]))
    half = len(order) // 2  # Equal transcripts are neighbours: half a turn takes them apart.
    for number, i in enumerate(order):
        text, transcript = texts[order[(number + half) % len(order)]]
        rows[places[i]] |= {"text": text, "transcript": transcript}


def _noisy(row: Mapping[str, Any], folder: Path, seed: int) -> str:
    clip = load_clip(row["audio"], RATE)
    rng = generator_of(seed, "white", row["id"])
    noisy = degrade(clip, Condition(kind="white", amount=SNR_DB), rng, sample_rate=RATE)
    path = folder / f"noisy-{row['id'].replace('/', '_')}.flac"
    _write(path, noisy / max(1.0, float(np.abs(noisy).max())))
    return str(path)


def _copied(row: ManifestRow, name: str, folder: Path, *, encode: bool) -> ManifestRow:
    path = folder / f"{name}{'.wav' if encode else Path(row['audio']).suffix}"
    if encode:
        _write(path, load_clip(row["audio"], RATE))
        text = row["text"].upper()
    else:
        path.write_bytes(Path(row["audio"]).read_bytes())
        text = plain_text(row["text"])
    return {**row, "id": name, "audio": str(path), "text": text, "split": "train"}


def _write(path: Path, clip: np.ndarray) -> None:
    """In 16 bits, of the scale that libsndfile reads them with: nothing else changes."""
    soundfile.write(path, quantize(clip), RATE, subtype="PCM_16")


def count(rows: Sequence[Row], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Recall and precision of each kind of fault, and of all."""
    fault = {row.id: kinds.get(row.id.removeprefix(SOURCE), "none") for row in rows}
    dropped = {row.id: row.dropped.partition(":")[0] for row in rows if row.dropped}
    planted = Counter(fault.values())
    by_kind = {}
    for stage, kind in FINDS.items():
        own = [fault[name] for name, by in dropped.items() if by == stage]
        by_kind[kind] = {
            "stage": stage,
            "planted": planted[kind],
            "dropped": sum(fault[name] == kind for name in dropped),
            "dropped_by_stage": len(own),
            "with_the_fault": own.count(kind),
            "with_another": len(own) - own.count(kind) - own.count("none"),
            "recall": _ratio(sum(fault[name] == kind for name in dropped), planted[kind]),
            "precision": _ratio(own.count(kind), len(own)),
        }
    wrong = sum(fault[name] == "none" for name in dropped)
    return {
        "kinds": by_kind,
        "all": {
            "planted": sum(planted.values()) - planted["none"],
            "dropped": len(dropped),
            "recall": _ratio(len(dropped) - wrong, sum(planted.values()) - planted["none"]),
            "precision": _ratio(len(dropped) - wrong, len(dropped)),
            "good_rows_dropped": _ratio(wrong, planted["none"]),
        },
    }


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
