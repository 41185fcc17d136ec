"""The training loop: steps, metrics, validation, checkpoints, and how a run ends."""

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from mrl_jax.checkpoints.train_state import RunCheckpoints
from mrl_jax.core.distributed import is_primary, should_stop
from mrl_jax.core.errors import MrlError
from mrl_jax.training.metrics_log import MetricsLog, _metrics_row
from mrl_jax.training.state import Metrics, TrainState

Step = Callable[[TrainState, Mapping[str, Any], Any], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a run goes on and what it keeps.

    Attributes:
        steps: optimiser steps; 0 lets `epochs` decide.
        epochs: passes over the data, if `steps` is 0.
        parallel: "pmap" or "mesh".
        devices: how many of a machine's devices to train on; 0 for all.
        fsdp: of "mesh": devices that one copy of the frozen weights is shared out over, for
            towers that one device cannot hold.
        validate_every: steps between validations; 0 validates at the end only.
        checkpoint_every: steps between checkpoints; one is also written with every
            validation, at the end, and on SIGTERM.
        keep_last: newest checkpoints to keep.
        keep_best: best checkpoints to keep, by validation.
        tensorboard: write TensorBoard events beside metrics.jsonl.
    """

    steps: int = 0
    epochs: float = 1.0
    parallel: Literal["pmap", "mesh"] = "pmap"
    devices: int = 0
    fsdp: int = 1
    validate_every: int = 0
    checkpoint_every: int = 500
    keep_last: int = 1
    keep_best: int = 1
    tensorboard: bool = True

    def total_steps(self, batches_per_epoch: int) -> int:
        """Steps of the whole run."""
        total = self.steps or round(self.epochs * batches_per_epoch)
        if total < 1:
            raise MrlError(
                f"train.steps {self.steps} and train.epochs {self.epochs} give {total} steps, "
                "expected 1 or more"
            )
        return total


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        step: the last step done.
        finished: False if SIGTERM stopped it first.
        input_wait: share of the loop's time spent waiting for batches.
        compiled_shapes: different batch shapes that were seen.
    """

    state: TrainState
    step: int
    finished: bool
    input_wait: float
    compiled_shapes: int


def run_loop(
    state: TrainState,
    step_function: Step,
    frozen: Mapping[str, Any],
    batches: Callable[[int], Generator[Any, None, None]],
    put_batch: Callable[[Any], Any],
    *,
    config: LoopConfig,
    total_steps: int,
    dims: tuple[int, ...],
    batch_size: int,
    learning_rate: Callable[[int], Any],
    checkpoints: RunCheckpoints,
    identity: Mapping[str, Any],
    workdir: Path,
    validate: Callable[[TrainState], Mapping[str, float]] | None,
    score: str,
) -> RunSummary:
    """Train from `state.step` to `total_steps`.

    The metrics of a step are read while the next one runs, so that the device never
    waits for the host.

    Args:
        state: consumed.
        step_function: the compiled step.
        frozen: frozen weights, where the step wants them.
        batches: a generator from a given step on; it is closed at the end.
        put_batch: a host batch onto the devices.
        config: lengths and intervals.
        total_steps: where to end.
        dims: names of the per-dim losses.
        batch_size: pairs in a step, over all devices.
        learning_rate: rate at a step, for the record.
        checkpoints: where the state is saved.
        identity: what a resumed run must agree on.
        workdir: gets metrics.jsonl and tensorboard/.
        validate: validation scores by name.
        score: which of them decides what is best.

    Raises:
        MrlError: a loss or gradient that is not finite; the last checkpoint is from before.
    """
    start = int(np.asarray(state.step))
    shapes: set[tuple[tuple[int, ...], ...]] = set()
    waited = 0.0
    pending: tuple[int, Metrics, float] | None = None
    step = start
    with (
        MetricsLog(workdir, start=start, tensorboard=config.tensorboard) as log,
        _sigterm() as stopped,
        tqdm(
            total=total_steps,
            initial=start,
            desc="training",
            unit="step",
            disable=not is_primary(),
            # A log is no terminal: a line in ten seconds is enough there.
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
        ) as bar,
        contextlib.closing(batches(start)) as iterator,
    ):

        def record(entry: tuple[int, Metrics, float]) -> None:
            number, metrics, seconds = entry
            row = _metrics_row(metrics, dims)
            watched = [row[name] for name in ("loss", "gradient_norm", "weight_norm")]
            if not np.isfinite(watched).all():
                last = checkpoints.latest_step
                raise MrlError(
                    f"step {number}: the loss is {row['loss']}, the gradient's norm "
                    f"{row['gradient_norm']}, the weights' {row['weight_norm']}: not finite, "
                    "so training stopped. "
                    + (f"The checkpoint of step {last} is whole" if last is not None else "")
                    + ("" if last is not None else "There is no checkpoint yet"),
                    where=workdir,
                    hint="lower optim.learning_rate, or set loss.temperature higher",
                )
            row["learning_rate"] = float(learning_rate(number - 1))
            row["pairs_per_second"] = batch_size / seconds
            log.write("train", number, row)
            bar.set_postfix_str(f"loss {row['loss']:.3f}, {row['pairs_per_second']:.0f} pairs/s")

        def save(scores: Mapping[str, float] | None = None) -> None:
            value = None if scores is None else scores[score]
            checkpoints.save(step, state, identity, value)

        ending = should_stop(step, stopped)
        begun = last_time = time.perf_counter()
        while step < total_steps and not ending:
            asked = time.perf_counter()
            batch = next(iterator)
            waited += time.perf_counter() - asked
            shapes.add(tuple(leaf.shape for leaf in jax.tree.leaves(batch)))
            state, metrics = step_function(state, frozen, put_batch(batch))
            if pending is not None:
                record(pending)
            step += 1
            now = time.perf_counter()
            pending, last_time = (step, metrics, now - last_time), now
            bar.update()
            validating = validate is not None and (
                step == total_steps or _is_due(step, config.validate_every)
            )
            saving = step == total_steps or _is_due(step, config.checkpoint_every)
            ending = should_stop(step, stopped)
            if validating or saving or ending:
                record(pending)  # Nothing that is not finite is ever saved.
                pending = None
            if validating and validate is not None:
                try:
                    scores = validate(state)
                except BaseException:
                    save()  # What was trained is not lost with a validation that fails.
                    raise
                log.write("validation", step, scores)
                if is_primary():
                    bar.write(f"step {step}: {score} {scores[score]:.4f}")
                save(scores)
            elif saving:
                save()
            if pending is None:
                last_time = time.perf_counter()
        elapsed = time.perf_counter() - begun
        if ending and step < total_steps:
            if pending is not None:
                record(pending)
            if step > start:
                save()
    return RunSummary(
        state=state,
        step=step,
        finished=step >= total_steps,
        input_wait=waited / elapsed if step > start else 0.0,
        compiled_shapes=len(shapes),
    )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets: what a cluster sends before it takes the machine away."""
    event = threading.Event()
    # Of several hosts JAX's own handler hears it, and tells the others (`should_stop`).
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)
