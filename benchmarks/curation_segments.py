"""Whether the stage `segment` finds the clips that a recording was joined from, and how fast.

    python benchmarks/curation_segments.py --clips ../shared/data/mboshi [--minutes 60]

Clips of speech, their quiet ends cut off by energy and those with a long pause inside left out, are
joined into recordings with white noise, pink noise, chords with vibrato and near silence between,
over a floor of noise; then `segment` cuts the recordings again. A cut clip is right where what it
shares with a joined one is more than half of the two together. Stages are timed by a whole run of
`mrl_jax.curation.run.curate`.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import record

from mrl_jax.core.paths import user_path
from mrl_jax.curation.config import CurationConfig
from mrl_jax.curation.filter import FilterConfig
from mrl_jax.curation.pipeline import StageResult
from mrl_jax.curation.rows import Row
from mrl_jax.curation.run import curate
from mrl_jax.curation.score import ScoreConfig
from mrl_jax.curation.segment import SegmentConfig
from mrl_jax.curation.sources import RecordingsSource
from mrl_jax.curation.split import SplitConfig

RATE, WINDOW = 16_000, 160
PART_MINUTES = 10
QUIET_DB = 25.0
"""Below the loudest window of a clip, what is at its ends is cut off; the recordings' own noise is
some 30 dB below.
"""
LEAST_WINDOWS = 3
"""In a row that are loud, else it is a click."""
LONGEST_PAUSE = 0.4
"""Seconds of quiet inside a clip, which is left out if it has more."""
FLOOR_DB = -60.0
KINDS = ("white noise", "pink noise", "music", "near silence")
Span = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=user_path, required=True, help="folder with table.jsonl")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        truth = write_recordings(args.clips, folder / "in", args.minutes, draw)
        config = config_of(folder / "in", args.workers)
        run = curate(config, folder / "out")
        speeds = [speed(stage) for stage in run.stages]
        cut = {name: [] for name in truth}
        for row in run.rows:
            if "segment.speech" in row.measured and not (row.dropped or "").startswith("segment"):
                cut[Path(row.audio or "").name].append(row)
    figures = compared(truth, cut)
    print(json.dumps(figures, indent=1))
    record(
        "curation_segments",
        {
            "target": "boundaries within 0.2 s of where a joined clip begins and ends",
            "inputs": {
                "clips": args.clips.name,
                "hours": round(args.minutes / 60, 3),
                "recordings": len(truth),
                "between": list(KINDS),
                "floor_db": FLOOR_DB,
                "workers": args.workers,
            },
            "figures": figures,
            "stages": speeds,
        },
    )


def config_of(folder: Path, workers: int) -> CurationConfig:
    """No padding, so that a boundary is where speech was found to begin or end."""
    return CurationConfig(
        name="segments",
        sources=(RecordingsSource(name="r", path=str(folder)),),
        stages=(
            SegmentConfig(shortest=0.3, padding=0.0),
            ScoreConfig(),
            FilterConfig(minimum={"score.snr_db": -20.0}),
            SplitConfig(parts={"train": 0.5, "dev": 0.5}, disjoint=()),
        ),
        workers=workers,
    )


def speed(stage: StageResult) -> dict[str, Any]:
    """Hours of audio that went into a stage, in one hour."""
    hours = max(stage.hours_before, stage.hours_after)
    rate = round(hours / stage.seconds * 3600, 1) if stage.seconds else None
    counts = {"rows_in": stage.before, "rows_out": stage.after}
    return {"stage": stage.name, "seconds": stage.seconds, "hours_an_hour": rate, **counts}


def write_recordings(
    clips: Path, folder: Path, minutes: int, draw: np.random.Generator
) -> dict[str, list[tuple[Span, str]]]:
    """Recordings of `PART_MINUTES`; where speech is in each, and what is before it."""
    table = [json.loads(line) for line in (clips / "table.jsonl").read_text().splitlines()]
    order = iter(draw.permutation(len(table)).tolist())
    truth: dict[str, list[tuple[Span, str]]] = {}
    for number in range(-(-minutes // PART_MINUTES)):
        parts: list[np.ndarray] = []
        spans: list[tuple[Span, str]] = []
        at = 0
        while at < min(PART_MINUTES, minutes) * 60 * RATE:
            kind = KINDS[int(draw.integers(len(KINDS)))]
            parts.append(between(kind, float(draw.uniform(1.0, 5.0)), draw))
            at += parts[-1].size
            clip = next(c for i in order if (c := speech_of(clips / table[i]["audio"])) is not None)
            spans.append(((at / RATE, (at + clip.size) / RATE), kind))
            parts.append(clip)
            at += clip.size
        samples = np.concatenate(parts)
        samples += 10 ** (FLOOR_DB / 20) * draw.standard_normal(samples.size)
        name = f"{number}.flac"
        soundfile.write(folder / name, np.clip(samples, -1, 1), RATE)
        truth[name] = spans
    return truth


def speech_of(path: Path) -> np.ndarray | None:
    """A clip from its first loud window to its last; None where it pauses in between."""
    samples, rate = soundfile.read(path)
    assert rate == RATE
    windows = samples[: samples.size // WINDOW * WINDOW].reshape(-1, WINDOW)
    power = np.square(windows).mean(axis=1)
    above = power > power.max() * 10 ** (-QUIET_DB / 10)
    runs = np.convolve(above, np.ones(LEAST_WINDOWS), "valid") == LEAST_WINDOWS
    loud = np.flatnonzero(np.convolve(runs, np.ones(LEAST_WINDOWS)) > 0)
    if np.diff(loud).max(initial=0) * WINDOW / RATE > LONGEST_PAUSE:
        return None
    return samples[loud[0] * WINDOW : (loud[-1] + 1) * WINDOW]


def between(kind: str, seconds: float, draw: np.random.Generator) -> np.ndarray:
    """What stands between two clips, at a level of -40 to -15 dB."""
    size = round(seconds * RATE)
    level = 10 ** (float(draw.uniform(-40, -15)) / 20)
    if kind == "near silence":
        return np.zeros(size)
    if kind == "music":
        wave = chord(size, float(draw.uniform(110, 440)))
    else:
        wave = draw.standard_normal(size)
        if kind == "pink noise":
            spectrum = np.fft.rfft(wave)
            spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 1))
            wave = np.fft.irfft(spectrum, size)
    return level * wave / np.sqrt(np.square(wave).mean())


def chord(size: int, root: float) -> np.ndarray:
    """Three voices with five partials each and a vibrato of 5 Hz."""
    times = np.arange(size) / RATE
    wave = np.zeros(size)
    for interval in (1.0, 1.26, 1.5):
        phase = root * interval * (times + 0.002 * np.sin(2 * np.pi * 5 * times))
        wave += sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 6))
    return wave


def compared(truth: dict[str, list[tuple[Span, str]]], cut: dict[str, list[Row]]) -> dict[str, Any]:
    """Recall, precision and boundary errors over all recordings."""
    errors: list[float] = []
    right = clips = found = 0
    missed: Counter[str] = Counter()
    for name, spans in truth.items():
        rows = [(row.start, float(row.end or 0.0)) for row in cut[name]]
        clips, found = clips + len(spans), found + len(rows)
        for span, kind in spans:
            best = max(rows, key=lambda one: overlap(span, one), default=None)
            if best is None or overlap(span, best) <= 0.5:
                missed[kind] += 1
                continue
            right += 1
            errors += [best[0] - span[0], best[1] - span[1]]
    return {
        "clips": clips,
        "cut": found,
        "recall": round(right / clips, 4),
        "precision": round(right / found, 4),
        "boundary_error_s": quantiles(np.abs(errors)),
        "starts_late_s": round(float(np.median(errors[::2])), 3),
        "ends_late_s": round(float(np.median(errors[1::2])), 3),
        "within_0.2_s": round(float(np.mean(np.abs(errors) <= 0.2)), 4),
        "missed_after": dict(missed),
    }


def overlap(first: Span, second: Span) -> float:
    """Length of what two spans share, over that of the two together; more than 0.5 for one pair
    at most.
    """
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return max(shared, 0.0) / (max(first[1], second[1]) - min(first[0], second[0]))


def quantiles(values: np.ndarray) -> dict[str, float]:
    names = {"median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(float(np.quantile(values, at)), 3) for name, at in names.items()}


if __name__ == "__main__":
    main()
