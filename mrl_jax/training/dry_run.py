"""What a run would need, without running it: shapes, memory of a device, operations of a step."""

import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.extend.backend

from mrl_jax.core.errors import MrlError
from mrl_jax.core.run_lock import owned
from mrl_jax.training.config import RunConfig
from mrl_jax.training.devices import Devices
from mrl_jax.training.flops import count_matmul_flops
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import make_optimizer
from mrl_jax.training.state import Log, init_state
from mrl_jax.training.trainer import Task, log_summary

BATCHES = 64
"""Batches of the run whose shapes are looked at."""


def simulate_devices(train: LoopConfig) -> None:
    """Give JAX as many CPU devices as `train.devices` asks for, where the machine has fewer.

    Called before JAX is used.

    Raises:
        MrlError: JAX is in use already, with fewer devices.
    """
    if not train.devices:
        return
    try:
        if jax.default_backend() != "cpu" and len(jax.devices()) < train.devices:
            jax.config.update("jax_platforms", "cpu")
            jax.extend.backend.clear_backends()
        if len(jax.devices()) < train.devices:
            jax.extend.backend.clear_backends()
            jax.config.update("jax_num_cpu_devices", train.devices)
    except RuntimeError as error:
        problem = f"train.devices is {train.devices}, and JAX has {len(jax.devices())} already"
        raise MrlError(problem, hint="start a process of its own for the dry run") from error


def dry_run(task: Task[Any, Any], config: RunConfig, workdir: Path, *, log: Log = print) -> None:
    """Prepare a run, compile its steps, and log what they need; nothing is trained.

    The data set is built into `workdir` as the run itself would, where it is not there yet, and so
    are the caches that the config names.

    Args:
        task: the kind of training.
        config: of that kind.
        workdir: of the run.
        log: called with each line.

    Raises:
        MrlError: as `trainer.run`; a run is under way in `workdir`.
    """
    with owned(workdir, log):
        _dry_run(task, config, workdir, log)


def _dry_run(task: Task[Any, Any], config: RunConfig, workdir: Path, log: Log) -> None:
    train = config.train
    devices = Devices.named(train.parallel, count=train.devices, fsdp=train.fsdp)
    devices.check_batch(config.data.batch.batch_size, config.optim.accumulation_steps)
    prepared = task.prepare(config, workdir, devices, log)
    optimizer = make_optimizer(config.optim, prepared.steps)
    state = devices.replicate(init_state(prepared.weights(), optimizer))
    log_summary(config, devices, prepared, state, log)
    parts, axis_name = config.optim.accumulation_steps, devices.axis_name
    step = devices.compile(
        prepared.make_step(optimizer, accumulation_steps=parts, axis_name=axis_name)
    )
    shapes: dict[Any, int] = {}
    batches = prepared.batches(0)
    examples: dict[Any, Any] = {}
    for batch in itertools.islice(batches, min(BATCHES, prepared.steps)):
        key = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(batch))
        shapes[key] = shapes.get(key, 0) + 1
        examples.setdefault(key, batch)
    batches.close()
    count = sum(shapes.values())
    log(f"{len(shapes)} batch shape(s) in the first {count} steps; each is compiled once:")
    for key, batch in examples.items():
        log(_line(step, state, prepared.frozen, devices, batch, shapes[key] / count))


def _line(step: Any, state: Any, frozen: Any, devices: Devices, batch: Any, share: float) -> str:
    placed = devices.put_batch(batch)
    flops = count_matmul_flops(step, state, frozen, placed)
    began = time.perf_counter()
    memory = step.lower(state, frozen, placed).compile().memory_analysis()
    seconds = time.perf_counter() - began
    shapes = ", ".join(
        f"{jax.tree_util.keystr(path).lstrip('.')} {list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
        if leaf.ndim > 1
    )
    count = len(devices.global_devices)
    needed = "memory is not known here"
    if memory is not None:
        inputs, rest = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
        total = inputs + rest + outputs
        needed = (
            f"{_size(total)} a device ({_size(inputs)} weights, state and batch, {_size(rest)} "
            f"temporary)"
        )
    return (
        f"{share:.0%} of steps: {shapes}: {needed}; {flops / 1e12:.4g} TFLOP a step, "
        f"{flops / count / 1e12:.4g} a device; compiled in {seconds:.1f} s"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
