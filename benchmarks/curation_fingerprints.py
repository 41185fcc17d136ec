"""Acoustic fingerprints on real speech: which copies are found, and which other clips are taken
for copies.

    python benchmarks/curation_fingerprints.py --data DATA

DATA is the folder of the data sets (mboshi, arabic_commands, fsdd). Copies are those of clips of
Mboshi's dev split, looked up among it. None of the others is a copy, and each that matches is a
false one: training clips of Mboshi by the same three speakers; a sentence that one speaker said
twice; five takes of one word or digit by one speaker against another five.
"""

import argparse
import io
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal
import soundfile
from common import record

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.paths import user_path
from mrl_jax.curation.fingerprint import (
    RATE,
    Fingerprint,
    FingerprintConfig,
    FingerprintIndex,
    fingerprint,
)
from mrl_jax.data.audio.decode import decode_clip, load_clip
from mrl_jax.data.audio.encode import quantize

SPEECH_RATE = 16_000
LOOSE = FingerprintConfig(bit_errors=0.4)
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
Found = list[tuple[int, float] | None]
"""For each clip the best match's place and bit errors."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=user_path, required=True)
    parser.add_argument("--copies", type=int, default=40, help="clips that each kind copies")
    parser.add_argument("--others", type=int, default=600, help="training clips that are looked up")
    args = parser.parse_args()
    rows = table(args.data / "mboshi")
    dev = [row for row in rows if row["split"] == "dev"]
    train = [row for row in rows if row["split"] == "train"]
    train = train[:: max(len(train) // args.others, 1)]
    begun = time.process_time()
    held_out = [print_of(load_clip(row["audio"], RATE)) for row in dev]
    other = [print_of(load_clip(row["audio"], RATE)) for row in train]
    made = time.process_time()
    index = FingerprintIndex(held_out, LOOSE)
    found_others = look_up(index, other)
    looked_up = time.process_time()
    clips = len(dev) + len(train)
    copied = copies(dev[:: max(len(dev) // args.copies, 1)], dev, index)
    false = {
        "other clips of the same speakers": found_others,
        "a sentence said twice by one speaker": said_twice(rows),
        "a word said again by one speaker": words(args.data / "arabic_commands"),
        "a digit said again by one speaker": digits(args.data / "fsdd" / "recordings"),
    }
    record(
        "curation_fingerprints",
        {
            "target": "every copy of the kinds above 10 dB found, no other clip taken for one",
            "default": FingerprintConfig().bit_errors,
            "held_out_clips": len(dev),
            "mean_seconds": round(sum(row["seconds"] for row in rows) / len(rows), 2),
            "core_ms_a_clip": {
                "decode and fingerprint": round(1e3 * (made - begun) / clips, 2),
                "look up": round(1e3 * (looked_up - made) / len(train), 2),
            },
            "copies": {name: recall(*one) for name, one in copied.items()},
            "others": {name: shares(one) for name, one in false.items()},
        },
    )


def table(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "table.jsonl").read_text(encoding="utf-8").splitlines()
    return [row | {"audio": folder / row["audio"]} for row in map(json.loads, lines)]


def print_of(clip: HostArray) -> Fingerprint:
    return fingerprint(np.asarray(clip, np.float32))


def look_up(index: FingerprintIndex, prints: Sequence[Fingerprint]) -> Found:
    matches = [index.find(one) for one in prints]
    return [None if one is None else (one.clip, one.bit_errors) for one in matches]


def copies(
    rows: Sequence[dict[str, Any]], dev: Sequence[dict[str, Any]], index: FingerprintIndex
) -> dict[str, tuple[list[int], Found]]:
    """By kind of copy, the places of the clips that were copied, and what was found."""
    places = {row["id"]: place for place, row in enumerate(dev)}
    result = {}
    for name, make in COPIES.items():
        rng = np.random.default_rng(0)
        prints, wanted = [], []
        for row in rows:
            copy = make(load_clip(row["audio"], SPEECH_RATE), rng)
            prints.append(print_of(decode_clip(copy, RATE, name=row["id"])))
            wanted.append(places[row["id"]])
        result[name] = wanted, look_up(index, prints)
    return result


def encoded(
    samples: HostArray, rate: int = SPEECH_RATE, format: str = "WAV", **options: Any
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, **options)
    return file.getvalue()


def telephone(clip: HostArray, _: np.random.Generator) -> bytes:
    narrow = scipy.signal.resample_poly(clip, 1, 2)
    band = scipy.signal.butter(4, (300, 3400), "bandpass", fs=8000, output="sos")
    return encoded(np.asarray(scipy.signal.sosfilt(band, narrow)), 8000, subtype="ULAW")


def noisy(db: float) -> Callable[[HostArray, np.random.Generator], bytes]:
    def make(clip: HostArray, rng: np.random.Generator) -> bytes:
        level = np.sqrt(np.mean(clip**2)) * 10 ** (-db / 20)
        return encoded(clip * 0.5 + 0.5 * level * rng.standard_normal(len(clip)))

    return make


def one_step(clip: HostArray, rng: np.random.Generator) -> bytes:
    samples = quantize(clip)
    place = rng.integers(len(samples))
    samples[place] += 1 if samples[place] < 0 else -1
    return encoded(samples)


HALF = SPEECH_RATE // 2
COPIES: dict[str, Callable[[HostArray, np.random.Generator], bytes]] = {
    "one sample changed by a step": one_step,
    "OGG": lambda clip, _: encoded(clip, format="OGG"),
    "MP3": lambda clip, _: encoded(clip, format="MP3"),
    "half the volume": lambda clip, _: encoded(0.5 * clip),
    "at 22.05 kHz": lambda clip, _: encoded(scipy.signal.resample_poly(clip, 441, 320), 22_050),
    "telephone, 8 kHz": telephone,
    "noise of 20 dB": noisy(20),
    "noise of 10 dB": noisy(10),
    "without 0.5 s at each end": lambda clip, _: encoded(clip[HALF:-HALF]),
    "without 0.5 s at each end, MP3": lambda clip, _: encoded(clip[HALF:-HALF], format="MP3"),
}


def said_twice(rows: Sequence[dict[str, Any]]) -> Found:
    """Later recordings of a speaker's sentence, two at most, looked up among the first ones."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["speaker"], row["transcript"]].append(row["audio"])
    repeated = [
        [print_of(load_clip(path, RATE)) for path in group[:3]]
        for group in groups.values()
        if len(group) > 1
    ]
    index = FingerprintIndex([group[0] for group in repeated], LOOSE)
    return look_up(index, [one for group in repeated for one in group[1:]])


def words(folder: Path) -> Found:
    """Of every twelfth file, ten takes in slots of a second, the second half among first halves."""
    clips = [load_clip(row["audio"], RATE) for row in table(folder)[::12]]
    clips = [clip for clip in clips if len(clip) >= 10 * RATE]
    index = FingerprintIndex([print_of(clip[: 5 * RATE]) for clip in clips], LOOSE)
    return look_up(index, [print_of(clip[5 * RATE : 10 * RATE]) for clip in clips])


def digits(folder: Path) -> Found:
    """Five takes of a digit joined, against another five of the same speaker and digit."""
    groups = defaultdict(list)
    for path in sorted(folder.glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        groups[digit, speaker].append(load_clip(path, RATE))
    joined = [
        [np.concatenate(takes[begin : begin + 5]) for begin in range(0, len(takes) - 4, 5)]
        for takes in groups.values()
    ]
    index = FingerprintIndex([print_of(group[0]) for group in joined], LOOSE)
    return look_up(index, [print_of(clip) for group in joined for clip in group[1:]])


def recall(wanted: Sequence[int], found: Found) -> dict[str, Any]:
    """Share of copies that are found as the copy of their own clip, by threshold."""
    own = [
        one[1] if one is not None and one[0] == place else 1.0
        for place, one in zip(wanted, found, strict=True)
    ]
    wrong = sum(
        one is not None and one[0] != place for place, one in zip(wanted, found, strict=True)
    )
    return {
        "clips": len(wanted),
        "of_another_clip": wrong,
        "median_bit_errors": round(float(np.median(own)), 3),
        "recall": {str(y): round(float(np.mean(np.array(own) <= y)), 4) for y in THRESHOLDS},
    }


def shares(found: Found) -> dict[str, Any]:
    """Clips that are taken for copies though they are none, by threshold."""
    errors = np.array([1.0 if one is None else one[1] for one in found])
    return {
        "clips": len(found),
        "fewest_bit_errors": round(float(errors.min()), 3),
        "false": {str(y): int(np.sum(errors <= y)) for y in THRESHOLDS},
    }


if __name__ == "__main__":
    main()
