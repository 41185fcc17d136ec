"""metrics.jsonl and TensorBoard events."""

import contextlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.distributed import is_primary
from mrl_jax.core.errors import MrlError, describe_os_error, write_hint
from mrl_jax.core.files import write_text
from mrl_jax.core.json_text import parse_json
from mrl_jax.training.event_file import EventFile
from mrl_jax.training.state import Metrics

METRICS_FILE, TENSORBOARD = "metrics.jsonl", "tensorboard"


class MetricsLog:
    """metrics.jsonl and TensorBoard events, by the first host; a context manager.

    Lines of an earlier attempt that are later than `start`, the step resumed from, are dropped.
    """

    def __init__(self, workdir: Path, *, start: int, tensorboard: bool):
        self._workdir, self._file, self._events = workdir, None, None
        if not is_primary():
            return
        path = workdir / METRICS_FILE
        kept = [row for row in read_metrics(path) if row["step"] <= start]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            purged = start + 1 if start else None
            self._events = EventFile(workdir / TENSORBOARD, purge=purged)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file in (self._file, self._events):
            # After a failed write the rest fails again, and the first error is the one to tell.
            with contextlib.nullcontext() if kind is None else contextlib.suppress(OSError):
                if file is not None:
                    file.close()

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One line, in the file before this returns.

        Raises:
            MrlError: the disk is full, or refuses the write.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
            if self._events is not None:
                for name, value in values.items():
                    if name == "time":  # An event has its own.
                        continue
                    self._events.add(f"{kind}/{name}", value, step)
        except OSError as error:
            problem = f"could not be written: {describe_os_error(error)}"
            raise MrlError(problem, where=self._workdir, hint=write_hint(error)) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, less those that are damaged.

    A last line that a killed run left half-written is dropped without a word. Others, which a
    failing disk leaves, are warned of.
    """
    rows: list[dict[str, Any]] = []
    damaged: list[int] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, 1):
        if (row := _metrics_of(line)) is not None:
            rows.append(row)
        elif line.strip() and number < len(lines):
            damaged.append(number)
    if damaged:
        some = f"{len(damaged)} damaged lines are left out, the first is line {damaged[0]}"
        warnings.warn(f"{path}: {some}", stacklevel=2)
    return rows


def _metrics_of(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None where it is none of ours."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return None
    return row if type(row.get("step")) is int else None


def metrics_row(metrics: Metrics, dims: tuple[int, ...]) -> dict[str, float]:
    """A step's metrics as numbers, with `loss/DIM` for each entry of `loss_per_dim`."""
    values = {name: np.asarray(value) for name, value in metrics.items()}
    per_dim = values.pop("loss_per_dim")
    row = {name: float(value) for name, value in values.items()}
    row.update({f"loss/{dim}": float(value) for dim, value in zip(dims, per_dim, strict=True)})
    return row
