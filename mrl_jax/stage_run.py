"""What every run does around its own part: hosts agree, steps are run, the best state is found."""

import dataclasses
import json
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mrl_jax.checkpoint import RunCheckpoints
from mrl_jax.config_tree import to_json
from mrl_jax.hosts import agree, is_first
from mrl_jax.run_folder import CONFIG_FILE, tell_changes, write_json
from mrl_jax.training.loop import LoopConfig, RunSummary, Step, run_loop
from mrl_jax.training.optim import OptimConfig, learning_rate
from mrl_jax.training.parallel import Devices
from mrl_jax.training.step import TrainState

Say = Callable[[str], None]


@runtime_checkable
class RunConfig(Protocol):
    """What all experiments have."""

    @property
    def train(self) -> LoopConfig: ...

    @property
    def optim(self) -> OptimConfig: ...

    @property
    def data(self) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Trained:
    """How the steps of a run ended.

    Attributes:
        summary: of the loop.
        state: of the best step; of the last where the run was stopped.
        step: that step.
        score: its own; None where nothing was validated.
    """

    summary: RunSummary
    state: TrainState
    step: int
    score: float | None


def begin(config: RunConfig, devices: Devices | None, say: Say) -> tuple[Devices, Say]:
    """The devices of a run, and what it is told through: of several hosts, the first says all.

    Args:
        config: of the run; its batch must be shared out evenly.
        devices: those that `config.train` names by default.
        say: told what happens.

    Raises:
        MrlError: hosts with other configs; devices that are not there; an uneven batch.
    """
    agree({"config": json.dumps(to_json(config), sort_keys=True, default=str)})
    if devices is None:
        train = config.train
        devices = Devices.named(train.parallel, count=train.devices, fsdp=train.fsdp)
    devices.check_batch(config.data.batch.batch_size, config.optim.accumulation_steps)
    return devices, say if is_first() else _silent


def run_steps(
    config: RunConfig,
    workdir: Path,
    devices: Devices,
    step: Step,
    state: TrainState,
    frozen: Mapping[str, Any],
    batches: Callable[[int], Generator[Any, None, None]],
    *,
    steps: int,
    dims: tuple[int, ...],
    identity: Mapping[str, Any],
    data_digest: str,
    validate: Callable[[TrainState], Mapping[str, float]] | None,
    score: str,
    say: Say,
) -> Trained:
    """Train, from the last checkpoint on where there is one, and find the best state.

    Args:
        config: lengths, intervals, the rate.
        workdir: gets checkpoints/, metrics.jsonl and the config.
        devices: where the run lives.
        step: compiled.
        state, frozen: where the step wants them; the state is consumed.
        batches: this host's rows from a step on.
        steps: of the whole run.
        dims: names of the per-dim losses.
        identity: what a resumed run must agree on.
        data_digest: of what is trained on, for the record.
        validate, score: scores by name, and which of them decides what is best.
        say: told what happens.
    """
    record = {**to_json(config), "data_digest": data_digest}
    with RunCheckpoints(
        workdir / "checkpoints",
        keep_last=config.train.keep_last,
        keep_best=config.train.keep_best,
    ) as checkpoints:
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(checkpoints.latest_step, state, identity)
            say(f"resumed from step {checkpoints.latest_step}")
            tell_changes(record, workdir, say)
        if is_first():
            write_json(workdir / CONFIG_FILE, record)
        summary = run_loop(
            state,
            step,
            frozen,
            batches,
            devices.put_batch,
            config=config.train,
            total_steps=steps,
            dims=dims,
            batch_size=config.data.batch.batch_size,
            learning_rate=learning_rate(config.optim, steps),
            checkpoints=checkpoints,
            identity=identity,
            workdir=workdir,
            validate=validate,
            score=score,
        )
        if not summary.finished:
            say(f"stopped by SIGTERM after step {summary.step}; the same command goes on from it")
            return Trained(summary, summary.state, summary.step, None)
        best, state = checkpoints.best_step or summary.step, summary.state
        if best != summary.step:
            state = checkpoints.restore(best, state, identity)
        return Trained(summary, state, best, checkpoints.best_score)


def _silent(line: str) -> None:
    """What the first host says is enough."""
    del line
