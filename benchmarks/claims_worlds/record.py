"""All reports of the worlds as one record: benchmarks/results/claims.json.

Scores, differences from the cascade and error rates have intervals over sentences crossed with
speakers. Folds of a world are taken together; seeds of a head are averaged query by query, and
their means are kept beside.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.report.records import read_records
from mrl_jax.evaluation.report.statistics import intervals_of, paired_difference
from mrl_jax.evaluation.transcribe.measure import rate_intervals
from mrl_jax.metrics.error_rates import compare_transcripts
from mrl_jax.metrics.intervals import Clusters, Interval, PairedTest

from .crossing import find_crossing
from .degraded import CONDITIONS, folder_of
from .files import WORLD_FILE
from .scores import (
    METRIC,
    Queries,
    Scores,
    mean_scores,
    read_errors,
    read_queries,
    read_scores,
    read_transcripts,
)
from .steps import RESULTS
from .tokens import TOKENS_FILE
from .worlds import CASCADE, SYSTEMS, WORLDS, World

KEPT = 0.99
"""Part of nDCG that the components counted in `components` must keep."""
VIEWS = ("prefix", "PCA of documents", "random coordinates")
TARGET = "late fusion above the cascade at every dimension of every world, and on their pool"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One world: its queries, and every system's values."""

    queries: Queries
    scores: Scores


def measure_claims(out: Path) -> dict[str, Any]:
    """What the reports below `out` hold, of every world that has some.

    Raises:
        MrlError: no world has a report.
    """
    figures: dict[str, Any] = {}
    measured: dict[str, Measured] = {}
    for name, world in WORLDS.items():
        folders = {part: out / name / part for part in world.parts}
        folders = {p: f for p, f in folders.items() if (f / "compare-0" / RESULTS).is_file()}
        if folders:
            measured[name], figures[name] = measure_world(world, folders)
    if not measured:
        raise MrlError("holds no report of any world", where=out, hint="run the step `compare`")
    return {"target": TARGET, "worlds": figures, "pooled": pool(measured)}


def measure_world(world: World, folders: Mapping[str, Path]) -> tuple[Measured, dict[str, Any]]:
    """Everything about one world.

    Args:
        world: what it is.
        folders: its parts that have been measured.
    """
    queries = read_queries({part: folder / "data" / "test" for part, folder in folders.items()})
    seeds = [
        read_scores({part: folder / f"compare-{seed}" for part, folder in folders.items()}, queries)
        for seed in world.seeds
        if all((folder / f"compare-{seed}" / RESULTS).is_file() for folder in folders.values())
    ]
    measured = Measured(queries=queries, scores=mean_scores(seeds))
    contents = [json.loads((f / "data" / WORLD_FILE).read_text()) for f in folders.values()]
    figures = {
        "title": world.title,
        "parts": list(folders),
        "counts": contents[0]["counts"],
        "rules": contents[0]["rules"],
        "queries": len(queries.keys),
        "seeds": len(seeds),
        "chance": _chance(folders),
        "systems": _systems(measured, seeds, folders),
        "differences": differences({"": measured}),
        "recognition": _recognition(folders, queries),
        "components": _components(folders),
        **_degraded(folders, queries),
        "matrix": _matrix(folders),
    }
    return measured, figures


def differences(worlds: Mapping[str, Measured]) -> dict[str, Any]:
    """Each system less the cascade at each dimension, over the queries of all worlds.

    Queries of different worlds share neither a sentence nor a speaker.
    """
    ones = list(worlds.values())
    names = [n for n in SYSTEMS if n != CASCADE and all(n in one.scores for one in ones)]
    if not all(CASCADE in one.scores for one in ones):
        return {}
    clusters = Clusters(
        texts=[(w, text) for w, one in worlds.items() for text in one.queries.clusters.texts],
        speakers=[
            (w, who) for w, one in worlds.items() for who in one.queries.clusters.speakers or ()
        ],
    )

    def column(name: str, dim: int) -> HostArray:
        return np.concatenate([one.scores[name][dim] for one in ones])

    return {
        name: {
            str(dim): _test(paired_difference(column(name, dim), column(CASCADE, dim), clusters))
            for dim in ones[0].scores[CASCADE]
        }
        for name in names
    }


def pool(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """Differences from the cascade over the queries of all worlds that have been measured."""
    return {"worlds": list(measured), "differences": differences(measured)}


def _systems(
    measured: Measured, seeds: Sequence[Scores], folders: Mapping[str, Path]
) -> dict[str, Any]:
    first = next(iter(folders.values()))
    costs = read_records(first / "compare-0" / RESULTS)
    tokens = {}
    if all((folder / TOKENS_FILE).is_file() for folder in folders.values()):
        counts = [json.loads((folder / TOKENS_FILE).read_text()) for folder in folders.values()]
        tokens = {name: float(np.mean([one[name] for one in counts])) for name in counts[0]}
    systems = {}
    for name in (name for name in SYSTEMS if name in measured.scores):
        columns = measured.scores[name]
        intervals = intervals_of(list(columns.values()), measured.queries.clusters)
        cost = {
            record.metric: record.value
            for record in costs
            if record.setting.get("system") == name and record.dim is None
        }
        systems[name] = {
            METRIC: {str(d): _interval(i) for d, i in zip(columns, intervals, strict=True)},
            "by seed": {
                str(dim): [float(one[name][dim].mean()) for one in seeds] for dim in columns
            },
            "parameters": cost["parameters"],
            "trained parameters": cost["trained parameters"],
            "milliseconds a query": 1000 * cost["seconds a query"],
            "speech tokens a second": tokens.get(name),
        }
    return systems


def _recognition(folders: Mapping[str, Path], queries: Queries) -> dict[str, Any]:
    reports = {part: folder / "transcribe" for part, folder in folders.items()}
    if not all((report / RESULTS).is_file() for report in reports.values()):
        return {}
    errors = compare_transcripts(*read_transcripts(reports, queries))
    wer, cer = rate_intervals([errors.words, errors.characters], queries.clusters)
    return {"wer": _interval(wer), "cer": _interval(cer)}


def _components(folders: Mapping[str, Path]) -> dict[str, dict[str, int]]:
    """The fewest numbers that keep 99 % of nDCG, by system and by how they are chosen."""
    kept: dict[str, dict[str, int]] = {}
    first = next(iter(folders.values()))
    for report in sorted(first.glob("spectrum-*")):
        records = [r for r in read_records(report / RESULTS) if r.metric == METRIC and r.dim]
        for view in VIEWS:
            rows = [record for record in records if record.setting.get("kept") == view]
            values = {r.dim: [o.value for o in rows if o.dim == r.dim] for r in rows if r.dim}
            if values:
                least = KEPT * float(np.mean(values[max(values)]))
                sizes = [size for size, some in values.items() if np.mean(some) >= least]
                kept.setdefault(report.name.partition("-")[2], {})[view] = min(sizes)
    return kept


def _degraded(folders: Mapping[str, Path], queries: Queries) -> dict[str, Any]:
    """Scores against word error rates in every condition that all parts have, and the crossing."""
    conditions = {
        "clean": "compare-0",
        **{one.title: f"degraded/{folder_of(one)}/compare" for one in CONDITIONS},
        "a quarter of the recogniser's steps": "less/compare-0",
    }
    points, rows = [], []
    for title, place in conditions.items():
        reports = {part: folder / place for part, folder in folders.items()}
        if not all((report / RESULTS).is_file() for report in reports.values()):
            continue
        scores = read_scores(reports, queries)
        if CASCADE not in scores:
            continue
        widest = max(scores[CASCADE])
        errors, words = read_errors(reports, queries, CASCADE)
        columns = {name: scores[name][widest] for name in SYSTEMS if name in scores}
        intervals = intervals_of(list(columns.values()), queries.clusters)
        systems = {n: _interval(i) for n, i in zip(columns, intervals, strict=True)}
        tests = {
            name: _test(paired_difference(values, columns[CASCADE], queries.clusters))
            for name, values in columns.items()
            if name != CASCADE
        }
        wer = float(errors.sum() / words.sum())
        points.append({"condition": title, "wer": wer, "systems": systems, "differences": tests})
        rows.append((columns, errors, words))
    crossings = {}
    for name in SYSTEMS:
        if name != CASCADE and len(rows) > 1 and all(name in columns for columns, _, _ in rows):
            gaps = np.stack([columns[name] - columns[CASCADE] for columns, _, _ in rows])
            errors, words = (np.stack([row[place] for row in rows]) for place in (1, 2))
            crossing = find_crossing(gaps, errors, words, queries.clusters.texts)
            crossings[name] = dataclasses.asdict(crossing)
    return {"conditions": points, "crossings": crossings}


def _matrix(folders: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """nDCG at full width by pair of languages and system."""
    first = next(iter(folders.values()))
    table = {}
    for report in sorted(first.glob("matrix/*-*")):
        records = [r for r in read_records(report / RESULTS) if r.metric == METRIC and r.dim]
        widest = max(record.dim or 0 for record in records)
        table[report.name] = {str(r.setting["system"]): r.value for r in records if r.dim == widest}
    return table


def _chance(folders: Mapping[str, Path]) -> float:
    values = []
    for folder in folders.values():
        records = read_records(folder / "compare-0" / RESULTS)
        values += [r.value for r in records if r.metric == f"{METRIC} of chance"]
    return float(np.mean(values))


def _interval(one: Interval) -> dict[str, float | None]:
    ends = {"low": one.low, "high": one.high}
    return {"mean": one.mean, **{k: None if np.isnan(v) else v for k, v in ends.items()}}


def _test(one: PairedTest) -> dict[str, float | None]:
    values = dataclasses.asdict(one)
    return {name: None if np.isnan(value) else value for name, value in values.items()}
