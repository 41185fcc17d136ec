"""One curation from its sources to its tables and its card; the same call goes on with a killed
one, and does nothing over again.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from mrl_jax.core.arguments import checked
from mrl_jax.core.config import to_json
from mrl_jax.core.extras import require
from mrl_jax.core.files import write_json
from mrl_jax.core.run_lock import owned
from mrl_jax.curation.card import write_card
from mrl_jax.curation.config import CurationConfig
from mrl_jax.curation.output import (
    STAGES,
    ClipsConfig,
    WriteClips,
    check_folder,
    check_recordings,
    write_tables,
)
from mrl_jax.curation.pipeline import StageResult, make_stages, run_stage
from mrl_jax.curation.probe import Probe, ProbeConfig
from mrl_jax.curation.rows import Row
from mrl_jax.curation.shards import open_workers
from mrl_jax.curation.sources import read_source
from mrl_jax.curation.stage import RowStage, StageConfig, TableStage
from mrl_jax.data.sets.digests import digest_lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurationRun:
    """What a curation made.

    Attributes:
        workdir: its folder.
        rows: every row, dropped ones too.
        stages: what each stage did, in order.
        tables: rows by the name of the table that was written.
    """

    workdir: Path
    rows: tuple[Row, ...]
    stages: tuple[StageResult, ...]
    tables: dict[str, int]


@checked
def curate(
    config: CurationConfig, workdir: Path, *, log: Callable[[str], None] = print
) -> CurationRun:
    """Run a curation, or go on with one.

    Args:
        config: whose stages are checked against each other before anything runs.
        workdir: folder of the run.
        log: gets a line a stage.

    Raises:
        MrlError: whatever is wrong with config, sources or stages; another run works there, or
            files lie there that no run made.
    """
    require("matplotlib", "jinja2", by="the data card")
    stages = make_stages(config.stages, config.seed)
    check_folder(workdir)
    with owned(workdir, log), open_workers(config.workers) as workers:
        listed = [read_source(one, workdir / "recordings") for one in config.sources]
        issues = [issue for source in listed for issue in source.issues]
        for issue in issues:
            log(f"note: {issue}")
        rows = [row for source in listed for row in source.rows]
        check_recordings(rows, workdir)
        files = digest_lines(one for source in listed for one in source.files)
        probe = ProbeConfig(files=files)
        clips = ClipsConfig(folder=str(workdir.resolve()), rate=config.clip_rate)
        whole: list[tuple[StageConfig, RowStage | TableStage]] = [
            (probe, Probe(probe)),
            *stages,
            (clips, WriteClips(clips)),
        ]
        results: list[StageResult] = []
        for number, (own, stage) in enumerate(whole):
            rows, result = run_stage(
                own,
                stage,
                rows,
                number=number,
                folder=workdir / STAGES,
                workers=workers,
                source=results[-1].digest if results else None,
                log=log,
            )
            results.append(result)
        write_json(workdir / "config.json", to_json(config))
        tables = write_tables(rows, workdir)
        write_card(config, rows, results, tables, issues, workdir)
    log(f"{config.name}: {', '.join(f'{name} ({n} rows)' for name, n in tables.items())}")
    return CurationRun(workdir=workdir, rows=tuple(rows), stages=tuple(results), tables=tables)
