"""`mix`: how often rows of each source or task are drawn in training, and the tasks of sources.

No row is written twice: the manifest gets a `weight` a row, which the batches of a run go by.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from mrl_jax.core.arguments import PositiveFloat, checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.curation.held_out import TRAIN
from mrl_jax.curation.rows import Row, hours_of
from mrl_jax.curation.stage import StageConfig, StageReport, TableStage
from mrl_jax.data.batches.mix import check_mix, shares_of


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class MixConfig(StageConfig):
    """Shares of what is trained on: rows of the split `train` with speech and a document.

    Attributes:
        by: what has a share, each "source" or each "task".
        shares: of each of them among the rows that are drawn; they sum to 1.
        temperature: in place of `shares`, a share proportional to n^(1/temperature), where n is how
            many rows there are: 1 is their natural share, infinity makes all equal.
        tasks: the task that the rows of a source get, in every split: {"radio": "translation"}.
    """

    name: str = "mix"
    by: Literal["source", "task"] = "source"
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    temperature: PositiveFloat | None = None
    tasks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"stages.{self.name}"
        check_mix(self.shares, self.temperature, where=where)
        if not self.shares and self.temperature is None and not self.tasks:
            hint = "set temperature, for example"
            raise MrlError("has no shares, temperature or tasks", where=where, hint=hint)
        for source, task in self.tasks.items():
            if not task.strip():
                hint = "leave it out, or name a task of the training config"
                raise MrlError("is empty", where=f"{where}.tasks.{source}", hint=hint)

    def check_sources(self, names: Sequence[str]) -> None:
        named = [*self.tasks, *(self.shares if self.by == "source" else ())]
        for name in named:
            if name not in names:
                problem = f"there is no source {name!r}"
                raise MrlError(problem, where=f"stages.{self.name}", hint=did_you_mean(name, names))


class Mix(TableStage):
    """Gives rows their `weight`, whose mean over what is trained on is 1, and their `task`.

    Raises:
        MrlError: a share for a task or source without rows, or rows without a share or a task.
    """

    reads_split = True

    def __init__(self, config: MixConfig):
        self.config, self.name = config, config.name

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        out = [self._with_task(row) for row in rows]
        if not self.config.shares and self.config.temperature is None:
            return out
        groups = [self._group(row) if _is_trained(row) else None for row in out]
        counts = Counter(group for group in groups if group is not None)
        self._check(counts)
        shares = shares_of(
            counts,
            shares=self.config.shares,
            temperature=self.config.temperature,
            kind=self.config.by,
            where=f"stages.{self.name}",
        )
        weights = {
            # The same digits on every machine.
            group: float(f"{share * counts.total() / counts[group]:.9g}")
            for group, share in shares.items()
        }
        return [
            row if group is None else dataclasses.replace(row, weight=weights[group])
            for row, group in zip(out, groups, strict=True)
        ]

    def _with_task(self, row: Row) -> Row:
        task = self.config.tasks.get(row.source)
        if task is None or task == row.task:
            return row
        return dataclasses.replace(row, task=task).note(self.name, f"the task {task}")

    def _group(self, row: Row) -> str:
        return row.source if self.config.by == "source" else row.task or ""

    def _check(self, counts: Mapping[str, int]) -> None:
        where = f"stage {self.name!r}"
        if not counts:
            problem = f"no row of the split {TRAIN!r} has speech and a text or transcript"
            raise MrlError(problem, where=where, hint="see which stage dropped them on the card")
        if counts.get(""):
            problem = f"{counts['']:,} rows have no task, and shares are of tasks"
            hint = f"set stages.{self.name}.tasks.SOURCE=TASK, or by=source"
            raise MrlError(problem, where=where, hint=hint)

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport | None:
        """The rows and the share of each source or task, and how often its rows are drawn."""
        trained = [row for row in after if row.dropped is None and _is_trained(row)]
        total = sum(row.weight or 1.0 for row in trained)
        table = []
        for group in sorted({self._group(row) for row in trained}):
            own = [row for row in trained if self._group(row) == group]
            weight = sum(row.weight or 1.0 for row in own)
            table.append(
                (
                    group or "no task",
                    f"{len(own):,}",
                    f"{hours_of(own):.2f}",
                    f"{len(own) / len(trained):.1%}",
                    f"{weight / total:.1%}",
                    f"{weight / total * len(trained) / len(own):.3g}",
                )
            )
        headings = (self.config.by, "rows", "hours", "natural share", "share", "draws an epoch")
        return StageReport(title="Shares in training", headings=headings, table=tuple(table))


def _is_trained(row: Row) -> bool:
    """Whether a training manifest gets the row."""
    document = row.text or row.transcript
    return row.audio is not None and bool(document) and (row.split or TRAIN) == TRAIN
