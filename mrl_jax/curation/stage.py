"""What a stage of the pipeline is: one step from rows to rows, decided by its config alone."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.rows import Row


class BrokenRow(MrlError):
    """Raised by a stage for a row that it cannot read: the row is dropped, and the run goes on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Base of every stage's config.

    A stage that draws random numbers has a field `seed: int | None = None` of its own; None becomes
    the seed of the run.

    Attributes:
        name: of the stage in its run, before the keys of what it measures; each once.
    """

    name: str

    def check_sources(self, names: Sequence[str]) -> None:
        """Raises an `MrlError` where it names a source that is none of these, those of the run."""
        del names


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageReport:
    """What a stage tells the data card.

    Attributes:
        title: a heading.
        headings: of the table's columns.
        table: its rows, as text.
        figure: a matplotlib `Figure`, or None.
        text: a sentence or two below the heading.
    """

    title: str
    headings: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    figure: Any = None
    text: str = ""


class Stage(abc.ABC):
    """What both kinds of stage have in common.

    Attributes:
        name: that of its config.
        measures: the keys that it writes in `Row.measured`, for example ("score.snr_db",).
        needs: the keys that it reads there; one that no stage before it measures is refused
            before anything runs.
        extra_inputs: files whose contents decide the result besides config and rows, for
            example a model's weights; a changed one reruns the stage.
        packages: installed ones that decide it likewise; another version reruns the stage.
        version: of its code: raised where the same config and rows would give other rows than
            before, so that a run does not go on from what the older code made.
        gives_split: it gives rows a split.
        reads_split: it goes by the split of rows: no stage after it may give them one.
    """

    name: str
    measures: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    extra_inputs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    version: int = 0
    gives_split: bool = False
    reads_split: bool = False

    def is_intact(self, rows: Sequence[Row]) -> bool:
        """Whether what it once wrote beside its table, if anything, is still there."""
        del rows
        return True

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport | None:
        """What the card shows of this stage; None for the counts alone, which it shows anyway.

        Args:
            before: the rows that were kept when the stage began.
            after: the rows that it returned, those it dropped among them.
        """
        del before, after
        return None


class RowStage(Stage):
    """Looks at one row at a time: runs in processes, in shards that a killed run finds again.

    It is pickled as it is made, so it holds its config only; models are loaded when they are first
    used (`functools.cached_property`), once a process.
    """

    @abc.abstractmethod
    def apply(self, row: Row) -> Sequence[Row]:
        """What becomes of a row that was kept so far: none, one or many; dropped ones are marked.

        Raises:
            BrokenRow: the row cannot be read; it is dropped with this error's words.
        """


class TableStage(Stage):
    """Looks at all rows at once: duplicates, clusters, splits, quantiles. One process."""

    @abc.abstractmethod
    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that were kept so far, in the same order, each changed, marked as dropped, or as
        it was; new rows may stand between them. None is left out.
        """
