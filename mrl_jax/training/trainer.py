"""What every run does around its own part: hosts agree, steps are run, the best state is found."""

import dataclasses
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mrl_jax.checkpoints.train_state import RunCheckpoints
from mrl_jax.core.config import to_json
from mrl_jax.core.distributed import assert_equal_across_hosts, is_primary
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import write_json
from mrl_jax.evaluation.scoring import RetrievalResult
from mrl_jax.nn import param_tree
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import LoopConfig, RunSummary, Step, run_loop
from mrl_jax.training.optim import OptimConfig, learning_rate
from mrl_jax.training.state import TrainState

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


def begin(config: RunConfig, devices: Devices | None, log: Say) -> tuple[Devices, Say]:
    """The devices of a run, and what it is told through: of several hosts, the first says all.

    Args:
        config: of the run; its batch must be shared out evenly.
        devices: those that `config.train` names by default.
        say: told what happens.

    Raises:
        MrlError: hosts with other configs; devices that are not there; an uneven batch.
    """
    assert_equal_across_hosts({"config": json.dumps(to_json(config), sort_keys=True, default=str)})
    if devices is None:
        train = config.train
        devices = Devices.named(train.parallel, count=train.devices, fsdp=train.fsdp)
    devices.check_batch(config.data.batch.batch_size, config.optim.accumulation_steps)
    return devices, log if is_primary() else _silent


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
    log: Say,
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
            log(f"resumed from step {checkpoints.latest_step}")
            log_config_changes(record, workdir, log)
        if is_primary():
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
            log(f"stopped by SIGTERM after step {summary.step}; the same command goes on from it")
            return Trained(summary, summary.state, summary.step, None)
        best, state = checkpoints.best_step or summary.step, summary.state
        if best != summary.step:
            state = checkpoints.restore(best, state, identity)
        return Trained(summary, state, best, checkpoints.best_score)


def _silent(line: str) -> None:
    """What the first host says is enough."""
    del line


def check_dims(dims: tuple[int, ...], width: int, where: object) -> None:
    """Raises an `MrlError` for a dim that the text tower does not have."""
    for dim in dims:
        if not 1 <= dim <= width:
            raise MrlError(
                f"loss.dims has {dim}, expected 1 to {width}, the width of the text tower",
                where=where,
                hint=f"for instance loss.dims={_halves(width)}",
            )


def _halves(width: int) -> str:
    dims = [width >> shift for shift in range(4) if width >> shift]
    return "[" + ",".join(map(str, dims)) + "]"


SCORE = "ndcg@10"


CONFIG_FILE = "experiment.json"


def check_whole(fsdp: int) -> None:
    """Raises an `MrlError` where weights are to be shared out: frozen ones only can be."""
    if fsdp != 1:
        raise MrlError(
            f"train.fsdp is {fsdp}, and shares out frozen weights: this stage trains its own",
            hint="leave train.fsdp out",
        )


def log_config_changes(
    record: Mapping[str, Any], workdir: Path, log: Callable[[str], None]
) -> None:
    """A resumed run may have another config or data; what differs is said, never just taken."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        return
    try:
        before = param_tree.flatten(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return
    now = param_tree.flatten(record)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        told = ", ".join(f"{name} {before.get(name)} → {now[name]}" for name in changed)
        log(f"note: the config has changed since the run began: {told}")


def scores_of(results: Sequence[RetrievalResult]) -> dict[str, float]:
    """nDCG@10 at each dimension; that of the widest also by its bare name."""
    widest = max(results, key=lambda result: result.dim)
    return {
        SCORE: widest.means[SCORE],
        **{f"{SCORE}/{result.dim}": result.means[SCORE] for result in results},
    }
