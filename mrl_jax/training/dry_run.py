"""What a run would need, without running it: shapes, memory of a device, operations of a step."""

import contextlib
import itertools
import time
from collections import Counter
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
from mrl_jax.training.state import Log
from mrl_jax.training.trainer import Task, chosen_devices, first_state, prepare_run

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
    devices = chosen_devices(config)
    prepared = prepare_run(task, config, workdir, devices, log)
    state, step = first_state(config, devices, prepared, log)
    shapes: Counter[Any] = Counter()
    examples: dict[Any, Any] = {}
    with contextlib.closing(prepared.batches(0)) as batches:
        for batch in itertools.islice(batches, min(BATCHES, prepared.steps)):
            key = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(batch))
            shapes[key] += 1
            examples.setdefault(key, batch)
    count = shapes.total()
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
