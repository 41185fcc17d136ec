"""A trace of some steps for XProf (TensorBoard's profiler), `train.profile=10:20`."""

import re
from pathlib import Path

import jax

from mrl_jax.core.errors import MrlError

PROFILE = "profile"
"""The folder in a workdir that gets the traces, one of each host."""


def profile_window(text: str) -> tuple[int, int] | None:
    """The first and the last step to trace; None for no trace.

    Raises:
        MrlError: not FIRST:LAST, or the last is before the first.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text)
    if match is None:
        hint = "write the first and the last step to trace, for instance 10:20"
        raise MrlError(f"train.profile is {text!r}, expected FIRST:LAST", hint=hint)
    first, last = int(match[1]), int(match[2])
    if not 1 <= first <= last:
        hint = "steps count from 1, and the last is not before the first"
        raise MrlError(f"train.profile is {text!r}, which holds no step", hint=hint)
    return first, last


def check_window(text: str, steps: int) -> None:
    """Raises an `MrlError` where a run of so many steps ends before the window does."""
    window = profile_window(text)
    if window is not None and window[1] > steps:
        problem = f"train.profile is {text!r}, and the run has {steps} steps"
        hint = f"choose steps up to {steps}, without the first, which compile"
        raise MrlError(problem, hint=hint)


class Profiler:
    """Traces the steps of a window; a context manager, which ends a trace that is under way.

    Args:
        text: `train.profile`.
        folder: that gets the trace.
    """

    def __init__(self, text: str, folder: Path):
        self._window, self._folder = profile_window(text), folder
        self._running = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def before(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Called before step `step`, from 1; a context manager that marks the step.

        A run that is resumed inside the window traces what is left of it.
        """
        first, last = self._window or (0, 0)
        if first <= step <= last and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after(self, step: int, outputs: object) -> None:
        """Called after step `step`; waits for its outputs where it is the last of the window."""
        if self._running and self._window is not None and step >= self._window[1]:
            jax.block_until_ready(outputs)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
