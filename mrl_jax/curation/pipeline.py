"""Stages one after the other, each in a folder of its own that a later run finds again.

stages/02-segment-1f0c5d6a7b8c/parts/00003.jsonl   finished shards of a stage that runs
stages/02-segment-1f0c5d6a7b8c/rows.jsonl          the table that it made
stages/02-segment-1f0c5d6a7b8c/stage.json          its config, and the digest of the table

The digest in the name is of config and input, models and versions of packages among it: a changed
config reruns what it changes, and an unchanged one nothing.
"""

import dataclasses
import importlib.metadata
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.checksums import file_digest
from mrl_jax.core.config import to_json
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.records import as_record, read_object, readable_as, write_description
from mrl_jax.curation.registry import make_stage
from mrl_jax.curation.rows import Row, hours_of, line_of, read_rows, rule_of, write_rows
from mrl_jax.curation.shards import Workers, run_shards
from mrl_jax.curation.stage import RowStage, Stage, StageConfig, StageReport, TableStage
from mrl_jax.data.sets.digests import digest_lines

FORMAT = 1
STAGE_FILE, ROWS_FILE = "stage.json", "rows.jsonl"
OF_SOURCES = ("source.seconds", "source.rate", "source.digest")
"""Keys that are measured of every recording before the first stage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageRecord:
    """The contents of stage.json.

    Attributes:
        name, config: of the stage.
        input: digest of the rows before it.
        rows: digest of the table that it made.
        seconds: that it took, over all runs that worked on it the last one.
    """

    name: str
    config: dict[str, Any]
    input: str
    rows: str
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage made of a table.

    Attributes:
        name: of the stage.
        before, after: rows kept before and after it.
        hours_before, hours_after: of their clips.
        dropped: rows and hours by the reason that the stage gave, numbers left out.
        seconds: that it took, when it ran.
        digest: of the table that it made.
        ran: in this run, rather than in an earlier one.
        report: for the card.
    """

    name: str
    before: int
    after: int
    hours_before: float
    hours_after: float
    dropped: dict[str, tuple[int, float]]
    seconds: float
    digest: str
    ran: bool
    report: StageReport | None


def make_stages(
    configs: Sequence[StageConfig], seed: int
) -> list[tuple[StageConfig, RowStage | TableStage]]:
    """The stages of a run with their configs, checked against each other.

    Raises:
        MrlError: a stage reads a key that none before it measures, or splits that a later one
            gives.
    """
    measured: list[str] = [*OF_SOURCES]
    stages: list[tuple[StageConfig, RowStage | TableStage]] = []
    for config in configs:
        if getattr(config, "seed", 0) is None:
            config = dataclasses.replace(config, **{"seed": seed})
        stage = make_stage(config)
        for key in stage.needs:
            if key not in measured:
                problem = f"reads {key!r}, which no stage before it measures"
                hint = did_you_mean(key, measured)
                raise MrlError(problem, where=f"stage {stage.name!r}", hint=hint)
        measured += stage.measures
        if stage.gives_split and (before := [one.name for _, one in stages if one.reads_split]):
            problem = f"comes after {before[0]!r}, which goes by the splits that this one gives"
            hint = f"put {stage.name!r} before {before[0]!r}"
            raise MrlError(problem, where=f"stage {stage.name!r}", hint=hint)
        stages.append((config, stage))
    return stages


def run_stage(
    config: StageConfig,
    stage: RowStage | TableStage,
    rows: list[Row],
    *,
    number: int,
    folder: Path,
    workers: Workers,
    source: str | None = None,
    log: Callable[[str], None] = print,
) -> tuple[list[Row], StageResult]:
    """The table after one stage: read where an earlier run made it, else computed and written.

    Args:
        config, stage: as `make_stages` gives them.
        rows: all rows, dropped ones among them.
        number: of the stage, for the name of its folder.
        folder: of all stages.
        workers: processes.
        source: digest of the rows, where it is known: `StageResult.digest` of the stage before.
        log: gets a line.

    Raises:
        MrlError: of the stage; every row was dropped.
    """
    source = digest_lines(map(line_of, rows)) if source is None else source
    inputs = [file_digest(Path(path)) for path in stage.extra_inputs]
    inputs += [f"{name} {_version(name)}" for name in stage.packages]
    if stage.version:  # None in the digests of stages that are what they always were.
        inputs.append(f"version {stage.version}")
    values = {"kind": type(config).__name__, "config": to_json(config), "inputs": inputs}
    digest = digest_lines([FORMAT, values, source])
    own = folder / f"{number:02d}-{stage.name}-{digest[:12]}"
    record, after = _finished(own)
    if record is not None and not stage.is_intact(after):
        shutil.rmtree(own)
        record = None
    ran = record is None
    if record is None:
        started = time.monotonic()
        after = _computed(stage, rows, own, workers)
        _check_new_ids(stage, after)
        write_rows(own / ROWS_FILE, after)
        record = StageRecord(
            name=stage.name,
            config=values,
            input=source,
            rows=file_digest(own / ROWS_FILE),
            seconds=round(time.monotonic() - started, 3),
        )
        write_description(own / STAGE_FILE, dataclasses.asdict(record), version=FORMAT)
        shutil.rmtree(own / "parts", ignore_errors=True)
    result = _result(stage, rows, after, record, ran)
    log(_line(result))
    if not result.after:
        raise _all_dropped(stage.name, result)
    return after, result


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"  # The stage says that it needs it.


def _finished(folder: Path) -> tuple[StageRecord | None, list[Row]]:
    """What an earlier run made in a folder; a damaged one is begun anew."""
    if not (folder / STAGE_FILE).is_file():
        return None, []
    try:
        with readable_as("a stage", folder / STAGE_FILE, hint=""):
            raw = read_object(folder / STAGE_FILE, version=FORMAT)
            record = as_record(raw, StageRecord)
            if file_digest(folder / ROWS_FILE) == record.rows:
                return record, read_rows(folder / ROWS_FILE)
    except MrlError:
        pass
    shutil.rmtree(folder)
    return None, []


def _computed(
    stage: RowStage | TableStage, rows: list[Row], folder: Path, workers: Workers
) -> list[Row]:
    if isinstance(stage, RowStage):
        return run_shards(stage, rows, folder / "parts", workers)
    kept = [row for row in rows if row.dropped is None]
    folder.mkdir(parents=True, exist_ok=True)
    return put_back(rows, stage.apply(kept), stage.name)


def put_back(rows: Sequence[Row], after: Sequence[Row], name: str) -> list[Row]:
    """A stage's output with the rows between that were dropped before it.

    Raises:
        MrlError: the stage left a row out.
    """
    followers: dict[str | None, list[Row]] = {None: []}
    last = None
    for row in rows:
        if row.dropped is None:
            last = row.id
            followers[last] = []
        else:
            followers[last].append(row)
    whole = followers.pop(None)
    for row in after:
        whole += [row, *followers.pop(row.id, [])]
    if followers:
        problem = f"left out the row {next(iter(followers))!r}"
        raise MrlError(problem, where=f"stage {name!r}", hint="a stage marks rows as dropped")
    return whole


def _check_new_ids(stage: Stage, rows: Sequence[Row]) -> None:
    counts = Counter(row.id for row in rows)
    name, count = max(counts.items(), key=lambda item: item[1], default=("", 1))
    if count > 1:
        problem = f"made {count} rows with the id {name!r}"
        raise MrlError(problem, where=f"stage {stage.name!r}", hint="ids are unique")


def _result(
    stage: Stage, rows: Sequence[Row], after: Sequence[Row], record: StageRecord, ran: bool
) -> StageResult:
    passed_by = {row.id for row in rows if row.dropped is not None}
    before = [row for row in rows if row.dropped is None]
    after = [row for row in after if row.id not in passed_by]
    kept = [row for row in after if row.dropped is None]
    dropped: dict[str, tuple[int, float]] = {}
    for row in after:
        if row.dropped is not None:
            count, hours = dropped.get(reason := rule_of(row.dropped), (0, 0.0))
            dropped[reason] = count + 1, hours + hours_of([row])
    return StageResult(
        name=stage.name,
        before=len(before),
        after=len(kept),
        hours_before=hours_of(before),
        hours_after=hours_of(kept),
        dropped=dropped,
        seconds=record.seconds,
        digest=record.rows,
        ran=ran,
        report=stage.report(before, after),
    )


def _line(result: StageResult) -> str:
    how = f"{result.seconds:.1f} s" if result.ran else "done before"
    hours = f"{result.hours_before:.2f} to {result.hours_after:.2f} hours"
    return f"{result.name}: {result.before} to {result.after} rows, {hours} ({how})"


def _all_dropped(name: str, result: StageResult) -> MrlError:
    rules = sorted(result.dropped.items(), key=lambda item: -item[1][0])
    first = "; ".join(f"{rule} ({count} rows)" for rule, (count, _) in rules[:3])
    problem = f"no row is left of {result.before}: {first or 'it returned none'}"
    return MrlError(problem, where=f"stage {name!r}", hint="change what it expects, or the data")
