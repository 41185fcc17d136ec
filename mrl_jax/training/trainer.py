"""One run: its task prepares it, the loop trains, and the task exports the best state."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from mrl_jax.checkpoints.train_state import RunCheckpoints
from mrl_jax.core.addresses import shown
from mrl_jax.core.arguments import checked
from mrl_jax.core.config import to_json
from mrl_jax.core.distributed import assert_equal_across_hosts, is_primary, run_on_primary
from mrl_jax.core.files import write_json
from mrl_jax.core.paths import output_path
from mrl_jax.core.records import read_object
from mrl_jax.core.remote_run import RunFolder, owned_run
from mrl_jax.evaluation.scoring import RetrievalResult
from mrl_jax.nn import param_tree
from mrl_jax.training.config import RunConfig
from mrl_jax.training.devices import Devices
from mrl_jax.training.goodput import ATTEMPTS_FILE, begin_attempt, measure_goodput
from mrl_jax.training.loop import SCORE, Prepared, RunSummary, run_loop
from mrl_jax.training.metrics_log import METRICS_FILE, TENSORBOARD, read_metrics
from mrl_jax.training.optim import averaged_weights, learning_rate, make_optimizer
from mrl_jax.training.profiler import PROFILE, profile_window
from mrl_jax.training.state import Log, Step, TrainState, init_state, trained_leaves

CONFIG_FILE = "experiment.json"
Config = TypeVar("Config", bound=RunConfig, contravariant=True)
Info = TypeVar("Info", covariant=True)


@dataclasses.dataclass(frozen=True)
class Best:
    """The state of the highest score, or the last one where nothing was validated: score None."""

    state: TrainState
    step: int
    score: float | None

    def scores(self) -> dict[str, float]:
        """The score by its name, as the exported folder records it."""
        return {} if self.score is None else {SCORE: self.score}


@runtime_checkable
class Task(Protocol[Config, Info]):
    """A kind of training: all that it does not share with the others."""

    def prepare(self, config: Config, workdir: Path, devices: Devices, log: Log) -> Prepared:
        """Read and check the data and the model.

        Raises:
            MrlError: whatever is wrong with them.
        """
        ...

    def export(self, config: Config, workdir: Path, prepared: Prepared, best: Best) -> None:
        """Write the exported folder; called on the first host only."""
        ...

    def exported(self, workdir: Path) -> tuple[Path, Info]:
        """The exported folder, and what it holds."""
        ...


@dataclasses.dataclass(frozen=True)
class RunResult(Generic[Info]):
    """How the loop ended and, if it finished, the exported folder and what it holds."""

    summary: RunSummary
    folder: Path | None = None
    info: Info | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps were done."""
        return self.summary.finished


@checked
def run(
    task: Task[Config, Info],
    config: Config,
    workdir: Path,
    *,
    devices: Devices | None = None,
    log: Log = print,
) -> RunResult[Info]:
    """Train, from the last checkpoint on where there is one, and export the best state.

    Args:
        task: the kind of training.
        config: of that kind.
        workdir: gets checkpoints/, metrics.jsonl, the config, and what the task writes; of an
            address see `core.remote_run`.
        devices: those that `config.train` names by default.
        log: called with a line for whatever happens, on the first host only.

    Raises:
        MrlError: hosts with other configs; another run that writes to `workdir`; devices that
            are not there; an uneven batch; whatever is wrong with the data, the model or a
            checkpoint.
    """
    workdir = output_path(workdir)
    log = log if is_primary() else lambda line: None  # What the first host logs is enough.
    facts = {"config": json.dumps(to_json(config), sort_keys=True, default=str)}
    assert_equal_across_hosts(facts)
    started, logs = time.time(), (METRICS_FILE, TENSORBOARD, ATTEMPTS_FILE, PROFILE)
    with owned_run(workdir, log, logs=logs) as folder:
        return _run(task, config, workdir, folder, devices, log, started)


def _run(
    task: Task[Config, Info],
    config: Config,
    workdir: Path,
    folder: RunFolder,
    devices: Devices | None,
    log: Log,
    started: float,
) -> RunResult[Info]:
    """`run` in a folder that is ours."""
    devices = chosen_devices(config) if devices is None else devices
    prepared = prepare_run(task, config, workdir, devices, log)
    summary, best = _train(config, workdir, folder, devices, prepared, log, started)
    if best is None:
        log(f"stopped by SIGTERM after step {summary.step}; the same command goes on from it")
        return RunResult(summary)
    run_on_primary(lambda: task.export(config, workdir, prepared, best))
    exported, info = task.exported(workdir)
    wait = f"input wait {summary.input_wait:.1%} of the time"
    log(f"model of step {best.step} in {shown(exported)}; {wait}")
    return RunResult(summary, exported, info)


def chosen_devices(config: RunConfig) -> Devices:
    """Those that `config.train` names."""
    train = config.train
    return Devices.named(train.parallel, count=train.devices, fsdp=train.fsdp)


def prepare_run(
    task: Task[Config, Any], config: Config, workdir: Path, devices: Devices, log: Log
) -> Prepared:
    """`Task.prepare` for devices that divide the batch."""
    devices.check_batch(config.data.batch.batch_size, config.optim.accumulation_steps)
    return task.prepare(config, workdir, devices, log)


def first_state(
    config: RunConfig, devices: Devices, prepared: Prepared, log: Log
) -> tuple[TrainState, Step]:
    """The state before the first step, and the step; what is trained on what is logged."""
    optimizer = make_optimizer(config.optim, prepared.steps)
    state = devices.replicate(init_state(prepared.weights(), optimizer))
    _log_summary(config, devices, prepared, state, log)
    parts, axis_name = config.optim.accumulation_steps, devices.axis_name
    step = prepared.make_step(optimizer, accumulation_steps=parts, axis_name=axis_name)
    return state, devices.compile(step)


def _train(
    config: RunConfig,
    workdir: Path,
    folder: RunFolder,
    devices: Devices,
    prepared: Prepared,
    log: Log,
    started: float,
) -> tuple[RunSummary, Best | None]:
    """Run the steps that are left, and find the best state; None if SIGTERM stopped the run."""
    train = config.train
    state, step = first_state(config, devices, prepared, log)
    leaves = {path: list(shape) for path, shape in trained_leaves(state.trained).items()}
    identity = {"trained leaves": leaves, **prepared.identity}
    prepared = dataclasses.replace(
        prepared, identity=identity, validate=_of_average(prepared.validate)
    )
    record = {**to_json(config), "data_digest": prepared.data_digest}
    with RunCheckpoints(
        workdir / "checkpoints",
        keep_last=train.keep_last,
        keep_best=train.keep_best,
        verify=train.verify,
    ) as checkpoints:
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(checkpoints.latest_step, state, identity)
            log(f"resumed from step {checkpoints.latest_step}")
            _log_config_changes(record, workdir, log)
        if is_primary():
            write_json(workdir / CONFIG_FILE, record)
        done = int(state.step)
        if done < prepared.steps and is_primary():
            rows = read_metrics(workdir / METRICS_FILE)
            begin_attempt(workdir, step=done, started=started, rows=rows)
        summary = run_loop(
            state,
            prepared,
            lambda state, batch: step(state, prepared.frozen, devices.put_batch(batch)),
            batch_size=config.data.batch.batch_size,
            learning_rate=learning_rate(config.optim, prepared.steps),
            config=train,
            checkpoints=checkpoints,
            workdir=workdir,
            on_save=folder.save,
        )
        _log_times(config, workdir, done, summary, log)
        if not summary.finished:
            return summary, None
        best, state = checkpoints.best_step, summary.state
        best = summary.step if best is None else best
        if best != summary.step:
            state = checkpoints.restore(best, state, identity)
        return summary, Best(_averaged(state), best, checkpoints.best_score)


Validate = Callable[[TrainState], Mapping[str, float]]


def _of_average(validate: Validate | None) -> Validate | None:
    return None if validate is None else lambda state: validate(_averaged(state))


def _averaged(state: TrainState) -> TrainState:
    """The state with the moving average of its weights, where the optimiser keeps one."""
    weights = averaged_weights(state.optimizer)
    return state if weights is None else dataclasses.replace(state, trained=weights)


@checked
def has_checkpoint(workdir: Path) -> bool:
    """Whether the run in this folder has begun."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


@checked
def scores_of(results: Sequence[RetrievalResult]) -> dict[str, float]:
    """nDCG@10 at each dimension; that of the widest also by its bare name."""
    widest = max(results, key=lambda result: result.dim)
    return {
        SCORE: widest.means[SCORE],
        **{f"{SCORE}/{result.dim}": result.means[SCORE] for result in results},
    }


def _log_summary(
    config: RunConfig, devices: Devices, prepared: Prepared, state: TrainState, log: Log
) -> None:
    """One line: how much is trained, on what, for how long, where."""
    trained = param_tree.count(param_tree.flatten(state.trained))
    whole, parts = prepared.parameters or trained, config.optim.accumulation_steps
    log(
        f"{config.name}: {trained:,} trained of {whole:,} parameters, {prepared.data}, "
        f"{prepared.steps:,} steps of {config.data.batch.batch_size}"
        f"{f' in {parts} part(s)' if parts > 1 else ''} on {len(devices.global_devices)} "
        f"device(s) by {devices.parallel}{prepared.details}"
    )


def _log_times(config: RunConfig, workdir: Path, start: int, summary: RunSummary, log: Log) -> None:
    """A line about the run's time, and one about its trace."""
    first, last = profile_window(config.train.profile) or (0, 0)
    first, last = max(first, start + 1), min(last, summary.step)
    if first <= last:
        log(f"trace of steps {first} to {last} in {shown(workdir / PROFILE)}, for XProf")
    elif config.train.profile:
        log(f"note: no step of train.profile={config.train.profile} was done, so none was traced")
    if summary.step > start and is_primary():
        goodput = measure_goodput(workdir, read_metrics(workdir / METRICS_FILE))
        if goodput is not None:
            log(goodput.line())


def _log_config_changes(record: Mapping[str, Any], workdir: Path, log: Log) -> None:
    """A resumed run may have another config or data; what differs is logged."""
    try:
        before = param_tree.flatten(read_object(workdir / CONFIG_FILE))
    except (OSError, ValueError):
        return  # The note is all that is lost.
    now = param_tree.flatten(record)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        listed = ", ".join(f"{name} {before.get(name)} → {now[name]}" for name in changed)
        log(f"note: the config has changed since the run began: {listed}")
