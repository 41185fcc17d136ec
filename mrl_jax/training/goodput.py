"""Which part of a run's wall time went into steps that count, over all its attempts.

attempts.jsonl has a line for each time that the run was started: the step it went on from, when,
and for how long the attempts before it had run. The time of steps after the last checkpoint of a
killed attempt is lost, as they are done again; the time between attempts is not counted.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.json_text import parse_json

ATTEMPTS_FILE = "attempts.jsonl"


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Seconds of a run, of all its attempts together.

    Attributes:
        total: from the start of each attempt to its last step; of the last one, until now. Never
            less than its steps took, should the clock have been set back.
        steps: in steps that count, without compilation.
        compilation: more than a usual step, in steps that met a new shape.
        input_wait: of `steps`, waiting for batches.
        restarts: attempts after the first.
    """

    total: float
    steps: float
    compilation: float
    input_wait: float
    restarts: int

    @property
    def share(self) -> float:
        """Of the time that was spent in steps that count."""
        return self.steps / max(self.total, 1e-9)

    def line(self) -> str:
        """For the log."""
        other = max(self.total - self.steps - self.compilation, 0.0)
        count = f"; {self.restarts} restart(s)" if self.restarts else ""
        return (
            f"goodput {self.share:.0%}: {self.steps:,.1f} of {self.total:,.1f} s in steps "
            f"({self.input_wait / max(self.steps, 1e-9):.1%} waiting for input), "
            f"{self.compilation:,.1f} s in compilation, {other:,.1f} s in start-up, validation, "
            f"checkpoints and steps done again{count}"
        )


def begin_attempt(workdir: Path, *, step: int, started: float, rows: Sequence[Any]) -> None:
    """Add a line to attempts.jsonl; called on the first host only.

    Args:
        step: that the attempt goes on from.
        started: `time.time()` when the attempt began, before its data and model were loaded.
        rows: of metrics.jsonl, as the attempt before left them.
    """
    before = _attempts(workdir)
    earlier = _seconds_until(before[-1], rows) if before else 0.0
    row = {"step": step, "time": started, "earlier_seconds": earlier}
    path = workdir / ATTEMPTS_FILE
    cut = path.is_file() and not path.read_bytes().endswith(b"\n")  # Half a line of a killed run.
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut + json.dumps(row) + "\n")


def measure_goodput(workdir: Path, rows: Sequence[Mapping[str, Any]]) -> Goodput | None:
    """Of a run that has just ended, from its files; None where these do not tell.

    Args:
        rows: of metrics.jsonl.
    """
    attempts = _attempts(workdir)
    trained = [row for row in rows if row.get("kind") == "train" and _is_timed(row)]
    usual = [row["seconds"] for row in trained if not row.get("compiled")]
    if not attempts or not usual:
        return None
    compiled = [row["seconds"] for row in trained if row.get("compiled")]
    middle = statistics.median(usual)
    kept = [min(seconds, middle) for seconds in compiled]
    total = attempts[-1]["earlier_seconds"] + time.time() - attempts[-1]["time"]
    return Goodput(
        total=max(total, sum(usual) + sum(compiled, 0.0)),
        steps=sum(usual) + sum(kept, 0.0),
        compilation=sum(compiled, 0.0) - sum(kept, 0.0),
        input_wait=sum((row["seconds_input"] for row in trained), 0.0),
        restarts=len(attempts) - 1,
    )


def _attempts(workdir: Path) -> list[dict[str, float]]:
    """The lines of attempts.jsonl; damaged ones, of a failing disk, are left out."""
    path = workdir / ATTEMPTS_FILE
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        names = ("step", "time", "earlier_seconds")
        if isinstance(row, dict) and all(isinstance(row.get(name), int | float) for name in names):
            found.append({name: float(row[name]) for name in names})
    return found


def _seconds_until(attempt: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> float:
    """Of an attempt and those before it, to its last step that was written."""
    times = [row["time"] for row in rows if _is_timed(row) and row["time"] >= attempt["time"]]
    return attempt["earlier_seconds"] + (max(times) - attempt["time"] if times else 0.0)


def _is_timed(row: Mapping[str, Any]) -> bool:
    names = ("time", "seconds", "seconds_input")
    return all(isinstance(row.get(name), int | float) for name in names)
