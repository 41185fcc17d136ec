"""`filter`: rows are kept within bounds of what was measured, as values or as quantiles."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import StageConfig, StageReport, TableStage

SECONDS = "seconds"
"""The key of a clip's length, which every row with a recording has."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig(StageConfig):
    """Bounds by measured key, ends included. A row without the key passes: a text has no loudness.

    Attributes:
        minimum, maximum: as values: {"score.snr_db": 10.0}; "seconds" is the length of a clip.
        minimum_quantile, maximum_quantile: as shares of the rows: {"score.snr_db": 0.1} drops the
            lowest tenth.
    """

    name: str = "filter"
    minimum: Mapping[str, float] = dataclasses.field(default_factory=dict)
    maximum: Mapping[str, float] = dataclasses.field(default_factory=dict)
    minimum_quantile: Mapping[str, float] = dataclasses.field(default_factory=dict)
    maximum_quantile: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"stages.{self.name}"
        if not self.bounded:
            raise MrlError("has no bound", where=where, hint="set minimum or maximum, for example")
        for name, bounds in self._bounds().items():
            for key, value in bounds.items():
                problem = f"{name}.{key} is {value}"
                if not math.isfinite(value):
                    raise MrlError(f"{problem}, expected a finite number", where=where)
                if name.endswith("quantile") and not 0 < value < 1:
                    hint = "0.1 stands for a tenth of the rows"
                    raise MrlError(f"{problem}, expected between 0 and 1", where=where, hint=hint)
        pairs = (
            ("minimum", self.minimum, self.maximum),
            ("minimum_quantile", self.minimum_quantile, self.maximum_quantile),
        )
        for name, low, high in pairs:
            for key in low.keys() & high.keys():
                if low[key] > high[key]:
                    problem = f"{name}.{key} is {low[key]:g}, above its maximum, {high[key]:g}"
                    raise MrlError(problem, where=where, hint="no row would be kept")

    def _bounds(self) -> dict[str, Mapping[str, float]]:
        names = ("minimum", "maximum", "minimum_quantile", "maximum_quantile")
        return {name: getattr(self, name) for name in names}

    @property
    def bounded(self) -> tuple[str, ...]:
        """All measured keys that it has a bound of, sorted: the order in a config says nothing."""
        return tuple(sorted({key for own in self._bounds().values() for key in own}))


class Filter(TableStage):
    """Drops the rows that are out of bounds; the first key out of them, by name, is the reason."""

    def __init__(self, config: FilterConfig):
        self.name, self.config = config.name, config
        self.needs = tuple(key for key in config.bounded if key != SECONDS)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        lows, highs = dict(self.config.minimum), dict(self.config.maximum)
        values = {key: _numbers(rows, key, self.name) for key in self.config.bounded}
        for key, share in self.config.minimum_quantile.items():
            if values[key]:
                low = _quantile(values[key], share)
                lows[key] = max(low, lows.get(key, -math.inf))
        for key, share in self.config.maximum_quantile.items():
            if values[key]:
                high = _quantile(values[key], share)
                highs[key] = min(high, highs.get(key, math.inf))
        return [self._judged(row, lows, highs) for row in rows]

    def _judged(self, row: Row, lows: Mapping[str, float], highs: Mapping[str, float]) -> Row:
        for key in self.config.bounded:
            value = value_of(row, key)
            if value is None:
                continue
            number = float(value)
            if key in lows and number < lows[key]:
                bound = f"expected {lows[key]:.4g} or more"
                return row.drop(self.name, f"{key} is {number:.4g}, {bound}")
            if key in highs and number > highs[key]:
                bound = f"expected {highs[key]:.4g} or less"
                return row.drop(self.name, f"{key} is {number:.4g}, {bound}")
        return row

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport:
        """A histogram of each bounded key, of kept and dropped rows."""
        from mrl_jax.evaluation.report.plotting import figure

        table = []
        keys = self.config.bounded
        drawing, axes = figure(panels=len(keys), width=4.2, height=3.0)
        for key, axis in zip(keys, np.atleast_1d(axes), strict=True):
            kept = [one for row in after if row.dropped is None for one in _list_of(row, key)]
            gone = [one for row in after if row.dropped is not None for one in _list_of(row, key)]
            every = [*kept, *gone]
            if every:
                low, middle, high = np.quantile(every, [0.05, 0.5, 0.95])
                table.append((key, f"{low:.4g}", f"{middle:.4g}", f"{high:.4g}", str(len(every))))
                axis.hist([kept, gone], bins=30, stacked=True, label=["kept", "dropped"])
                axis.legend(fontsize="small")
            axis.set_xlabel(key)
        return StageReport(
            title=f"Bounds of {self.name}",
            headings=("measured", "5%", "median", "95%", "rows"),
            table=tuple(table),
            figure=drawing,
        )


def value_of(row: Row, key: str) -> float | int | str | None:
    """What was measured of a row; None where it has no such key."""
    return row.seconds if key == SECONDS else row.measured.get(key)


def _list_of(row: Row, key: str) -> list[float]:
    value = value_of(row, key)
    return [] if value is None or isinstance(value, str) else [float(value)]


def _numbers(rows: Sequence[Row], key: str, name: str) -> list[float]:
    values = [value for row in rows if (value := value_of(row, key)) is not None]
    for value in values:
        if isinstance(value, str):
            problem = f"{key} is text, {value!r:.40}, expected a number"
            raise MrlError(problem, where=f"stages.{name}", hint="bound another key")
    return [float(value) for value in values]


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(np.asarray(values), share))
