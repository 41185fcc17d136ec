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
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import is_primary, should_stop
from mrl_jax.core.errors import MrlError
from mrl_jax.models.lora import LoraConfig
from mrl_jax.training.metrics_log import MetricsLog, metrics_row
from mrl_jax.training.profiler import PROFILE, Profiler, check_window, profile_window
from mrl_jax.training.state import Metrics, Step, TrainState

SCORE = "ndcg@10"
"""What decides which state is best, where a run is validated by retrieval."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a run is, where it runs, and what it keeps.

    Attributes:
        steps: optimiser steps; none lets `epochs` decide, and 0 exports an untrained head.
        epochs: passes over the data, if `steps` is none.
        devices: how many of a machine's devices to train on; 0 for all.
        fsdp: of "mesh": devices that one copy of the frozen weights is sharded over, for
            towers that one device cannot hold.
        parallel: "pmap" or "mesh"; see `training.devices`.
        validate_every: steps between validations; 0 validates at the end only.
        checkpoint_every: steps between checkpoints; one is also written with every
            validation, at the end, and on SIGTERM.
        keep_last: newest checkpoints to keep.
        keep_best: best checkpoints to keep, by validation.
        tensorboard: write TensorBoard events beside metrics.jsonl.
        text_lora: of the text stage: low-rank factors (LoRA) are trained beside a frozen text tower
            where their rank is above 0; otherwise the tower is trained whole.
        profile: "10:20" writes a trace of the steps 10 to 20 into profile/, for XProf.
        verify: compare towers, data, caches and checkpoints with their digests.
    """

    steps: int | None = None
    epochs: float = 1.0
    devices: int = 0
    fsdp: int = 1
    parallel: Literal["pmap", "mesh"] = "pmap"
    validate_every: int = 0
    checkpoint_every: int = 500
    keep_last: int = 1
    keep_best: int = 1
    tensorboard: bool = True
    text_lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    profile: str = ""
    verify: bool = True

    def __post_init__(self) -> None:
        profile_window(self.profile)

    def total_steps(self, batches_per_epoch: int) -> int:
        """Steps of the whole run.

        Raises:
            MrlError: fewer than none; the profile is of steps behind the last.
        """
        total = round(self.epochs * batches_per_epoch) if self.steps is None else self.steps
        if total < 0:
            raise MrlError(f"train.steps is {self.steps}, expected 0 or more, or none")
        if self.steps is None and total < 1:
            raise MrlError(
                f"train.epochs {self.epochs} gives {total} steps, expected 1 or more",
                hint="raise it, or set train.steps",
            )
        check_window(self.profile, total)
        return total


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        step: the last step done.
        finished: False if SIGTERM stopped it first.
        input_wait: fraction of the loop's time spent waiting for batches.
        compiled_shapes: different batch shapes that were seen.
    """

    state: TrainState
    step: int
    finished: bool
    input_wait: float
    compiled_shapes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run before its first step.

    Attributes:
        weights: makes the initial trained weights, a nested dict; called once, so that only the
            state holds them.
        frozen: frozen weights by path, where the step wants them.
        make_step: (optimizer, *, accumulation_steps, axis_name) to the step, a pure function.
        batches: a generator of this host's rows from a step on; it is closed at the end.
        steps: of the whole run.
        identity: what a resumed run must agree on; the trainer adds the shapes of the trained
            leaves.
        data_digest: of what is trained on, for the record.
        dims: names of the per-dim losses.
        validate: scores of a state by name; None where nothing is validated.
        score: which of them decides what is best, the highest.
        parameters: of the whole model; None where all of them are trained.
        data: how many examples of what, for the log; `details` ends its line.
        parts: whatever `Task.export` needs.
    """

    weights: Callable[[], Mapping[str, Any]]
    frozen: Mapping[str, Any]
    make_step: Callable[..., Step]
    batches: Callable[[int], Generator[Any, None, None]]
    steps: int
    identity: Mapping[str, Any]
    data_digest: str
    dims: tuple[int, ...] = ()
    validate: Callable[[TrainState], Mapping[str, float]] | None = None
    score: str = SCORE
    parameters: int | None = None
    data: str
    details: str = ""
    parts: Any = None


def run_loop(
    state: TrainState,
    prepared: Prepared,
    run_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    *,
    batch_size: int,
    learning_rate: Callable[[int], Any],
    config: LoopConfig,
    checkpoints: RunCheckpoints,
    workdir: Path,
    on_save: Callable[[], None] = lambda: None,
) -> RunSummary:
    """Train from `state.step` to `prepared.steps`.

    The metrics of a step are read while the next one runs, so that the device never
    waits for the host.

    Args:
        state: consumed.
        prepared: the batches, the validation, and what is recorded.
        run_step: (state, host batch) to the next state and the step's metrics; compiled.
        batch_size: pairs in a step, over all devices.
        learning_rate: rate at a step, for the record.
        config: intervals.
        checkpoints: where the state is saved.
        workdir: gets metrics.jsonl and tensorboard/.
        on_save: called after each checkpoint.

    Raises:
        MrlError: a loss or gradient that is not finite; the last checkpoint is from before.
    """
    start = step = int(np.asarray(state.step))
    shapes: set[tuple[tuple[int, ...], ...]] = set()
    waited, total = 0.0, prepared.steps
    with (
        MetricsLog(workdir, start=start, tensorboard=config.tensorboard) as log,
        _sigterm() as stopped,
        _progress_bar(total, start) as bar,
        Profiler(config.profile, workdir / PROFILE) as profiler,
        contextlib.closing(prepared.batches(start)) as iterator,
    ):
        records = _Records(
            prepared, batch_size, learning_rate, checkpoints, log, bar, workdir, on_save
        )
        ending = should_stop(step, stopped)
        begun = records.last_time
        if total == 0 and checkpoints.latest_step is None:
            (records.save if prepared.validate is None else records.validate)(0, state)
        while step < total and not ending:
            step += 1
            with profiler.before(step):
                times = [time.perf_counter()]
                batch = next(iterator)
                times.append(time.perf_counter())
                shape = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
                state, metrics = run_step(state, batch)
                times.append(time.perf_counter())
                records.write_pending()
                times.append(time.perf_counter())
            profiler.after(step, metrics)
            waited += times[1] - times[0]
            records.add(step, metrics, np.diff(times), compiled=shape not in shapes)
            shapes.add(shape)
            validating = prepared.validate is not None and (
                step == total or _is_due(step, config.validate_every)
            )
            saving = step == total or _is_due(step, config.checkpoint_every)
            ending = should_stop(step, stopped)
            if validating or saving or ending:
                records.write_pending()  # Nothing that is not finite is ever saved.
                (records.validate if validating else records.save)(step, state)
                records.last_time = time.perf_counter()
        elapsed = time.perf_counter() - begun
    return RunSummary(
        state=state,
        step=step,
        finished=step >= total,
        input_wait=waited / elapsed if step > start else 0.0,
        compiled_shapes=len(shapes),
    )


@dataclasses.dataclass
class _Records:
    """What a loop writes: metrics one step late, scores, checkpoints."""

    prepared: Prepared
    batch_size: int
    learning_rate: Callable[[int], Any]
    checkpoints: RunCheckpoints
    log: MetricsLog
    bar: Any
    workdir: Path
    on_save: Callable[[], None]
    pending: tuple[int, Metrics, dict[str, float]] | None = None
    last_time: float = dataclasses.field(default_factory=time.perf_counter)

    def add(self, step: int, metrics: Metrics, parts: HostArray, *, compiled: bool) -> None:
        """Metrics of a step that may still be running.

        Args:
            parts: [3] seconds: waiting for the batch, sending it and starting the step, waiting
                for the step before.
            compiled: whether the batch has a shape that was not there before.
        """
        now = time.perf_counter()
        seconds = {"seconds": now - self.last_time}
        names = ("seconds_input", "seconds_dispatch", "seconds_device")
        seconds |= dict(zip(names, map(float, parts), strict=True))
        self.pending = step, metrics, {**seconds, "compiled": float(compiled)}
        self.last_time = now
        self.bar.update()

    def write_pending(self) -> None:
        """Wait for the metrics added last, if any, and write them."""
        if self.pending is None:
            return
        step, metrics, seconds = self.pending
        self.pending = None
        row = metrics_row(metrics, self.prepared.dims)
        if not np.isfinite([row[name] for name in ("loss", "gradient_norm", "weight_norm")]).all():
            last = self.checkpoints.latest_step
            whole = f"The checkpoint of step {last} is whole"
            raise MrlError(
                f"step {step}: the loss is {row['loss']}, the gradient's norm "
                f"{row['gradient_norm']}, the weights' {row['weight_norm']}: not finite, "
                f"so training stopped. {'There is no checkpoint yet' if last is None else whole}",
                where=self.workdir,
                hint="lower optim.learning_rate, or set loss.temperature higher",
            )
        row["learning_rate"] = float(self.learning_rate(step - 1))
        row["pairs_per_second"] = self.batch_size / seconds["seconds"]
        row |= {**seconds, "time": time.time()}
        self.log.write("train", step, row)
        self.bar.set_postfix_str(f"loss {row['loss']:.3f}, {row['pairs_per_second']:.0f} pairs/s")

    def validate(self, step: int, state: TrainState) -> None:
        """Score the state, and save it with its score."""
        assert self.prepared.validate is not None
        try:
            scores = self.prepared.validate(state)
        except BaseException:
            self.save(step, state)  # What was trained is not lost with a validation that fails.
            raise
        self.log.write("validation", step, scores)
        score = scores[self.prepared.score]
        if is_primary():
            self.bar.write(f"step {step}: {self.prepared.score} {score:.4f}")
        self.save(step, state, score)

    def save(self, step: int, state: TrainState, score: float | None = None) -> None:
        """Write a checkpoint."""
        self.checkpoints.save(step, state, self.prepared.identity, score)
        self.on_save()


def _progress_bar(total: int, start: int) -> Any:
    return tqdm(
        total=total,
        initial=start,
        desc="training",
        unit="step",
        disable=not is_primary(),
        # A log is no terminal: a line in ten seconds is enough there.
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
    )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets: what a cluster sends before it takes the machine away."""
    event = threading.Event()
    # Of several hosts JAX's own handler gets it, and informs the others (`should_stop`).
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)
