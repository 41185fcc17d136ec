"""Groups of voices against known speakers: MFCCs, and every layer of speech towers.

    python benchmarks/curation_speakers.py --demo DEMO --data DATA --claims CLAIMS

DEMO is the folder that `mrl-jax demo` made, DATA the folder of the data sets (fsdd, mboshi and
arabic_commands) and CLAIMS that of `python benchmarks/claims.py`, whose recognisers of Mboshi and
of asterisk are two of the towers; the third is the demo's. Purity is the share of clips whose
group has their speaker as its most frequent one, completeness the share whose speaker has their
group so.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.paths import user_path
from mrl_jax.curation.speaker_vectors import StateStatistics, mfcc_statistics
from mrl_jax.curation.speakers import DISTANCE, cluster_voices, completeness, purity, standardised
from mrl_jax.data.audio.decode import load_clip

RATE = 16_000
CLIPS = 240
Voices = tuple[list[HostArray], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("demo", "data", "claims"):
        parser.add_argument(f"--{name}", type=user_path, required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    sets = {
        "fsdd": digits(args.data / "fsdd" / "recordings", rng),
        "arabic_commands": commands(args.data / "arabic_commands", rng),
        "mboshi": of_table(args.data / "mboshi", "table.jsonl", rng, split="dev"),
        "demo": of_table(args.demo / "world" / "test", "queries.jsonl", rng),
    }
    towers = {
        "mboshi": args.claims / "mboshi" / "all" / "ctc" / "tower",
        "asterisk": args.claims / "asterisk" / "all" / "ctc" / "tower",
        "demo": args.demo / "towers" / "speech",
    }
    statistics = {name: StateStatistics(folder) for name, folder in towers.items()}
    record(
        "curation_speakers",
        {
            "target": "completeness at the default distance: a speaker is in one group",
            "default_distance": DISTANCE,
            "sets": {name: measure(voices, statistics) for name, voices in sets.items()},
        },
    )


def measure(voices: Voices, towers: dict[str, StateStatistics]) -> dict[str, Any]:
    """Each kind of vector on one set."""
    clips, speakers = voices
    begun = time.perf_counter()
    vectors = {"mfcc": mfcc_statistics(clips, RATE)}
    for name, tower in towers.items():
        layers = tower.layers(clips)
        vectors |= {f"{name} tower, layer {y + 1}": layers[:, y] for y in range(layers.shape[1])}
    return {
        "clips": len(clips),
        "speakers": len(set(speakers)),
        "mean_seconds": round(sum(map(len, clips)) / RATE / len(clips), 2),
        "seconds": round(time.perf_counter() - begun, 1),
        "vectors": {name: agreement(own, speakers) for name, own in vectors.items()},
    }


def agreement(vectors: HostArray, speakers: Sequence[str]) -> dict[str, Any]:
    """Groups by the default distance and by the true number, and the nearest neighbour."""
    unit = standardised(vectors)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    nearest = cosines.argmax(axis=1)
    by_distance = cluster_voices(vectors)
    by_count = cluster_voices(vectors, speakers=len(set(speakers)))
    return {
        "groups": int(by_distance.max()) + 1,
        "purity": round(purity(by_distance, speakers), 3),
        "completeness": round(completeness(by_distance, speakers), 3),
        "known_count_purity": round(purity(by_count, speakers), 3),
        "known_count_completeness": round(completeness(by_count, speakers), 3),
        "nearest_is_of_speaker": round(
            float(np.mean([speakers[i] == speakers[j] for i, j in enumerate(nearest)])), 3
        ),
    }


def digits(folder: Path, rng: np.random.Generator) -> Voices:
    files = sorted(folder.glob("*.wav"))
    chosen = [files[i] for i in rng.choice(len(files), CLIPS, replace=False)]
    return [load_clip(path, RATE) for path in chosen], [path.stem.split("_")[1] for path in chosen]


def commands(folder: Path, rng: np.random.Generator) -> Voices:
    rows = [json.loads(line) for line in (folder / "table.jsonl").open(encoding="utf-8")]
    clips, speakers = [], []
    for i in rng.choice(len(rows), CLIPS, replace=False):
        take = int(rng.integers(rows[i]["takes"]))
        whole = load_clip(folder / rows[i]["audio"], RATE)
        clips.append(whole[take * RATE : (take + 1) * RATE])
        speakers.append(rows[i]["speaker"])
    return clips, speakers


def of_table(
    folder: Path, table: str, rng: np.random.Generator, *, split: str | None = None
) -> Voices:
    rows = [json.loads(line) for line in (folder / table).open(encoding="utf-8")]
    rows = [row for row in rows if split is None or row["split"] == split]
    chosen = [rows[i] for i in rng.choice(len(rows), CLIPS, replace=False)]
    clips = [load_clip(folder / row["audio"], RATE) for row in chosen]
    return clips, [row["speaker"] for row in chosen]


if __name__ == "__main__":
    main()
