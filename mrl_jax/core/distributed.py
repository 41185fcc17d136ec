"""Several processes, one run: how they start, agree, share work, take turns and stop together.

Each host of a pod runs the same command and reads its own rows; files are written by the first
host, into a folder that all of them see.
"""

import contextlib
import hashlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, describe_os_error, first_line

TIMEOUT = 300
"""Seconds to wait for the coordinator."""

LINE = 1024
"""Bytes of a message that hosts exchange."""


def initialize_distributed(
    coordinator: str | None, process: int | None, processes: int | None, *, timeout: int = TIMEOUT
) -> None:
    """Join the run of several hosts; before anything else of JAX.

    On TPU pods, SLURM, Open MPI and Kubernetes the cluster knows the first three: pass None.

    Args:
        coordinator: HOST:PORT of the first process.
        process: number of this one, from 0.
        processes: how many there are.
        timeout: seconds to wait for the coordinator.

    Raises:
        MrlError: some of the three are given and not all; the coordinator does not answer, or
            the cluster is none that is known.
    """
    given = {"--coordinator": coordinator, "--process": process, "--processes": processes}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < 3:
        problem = f"{' and '.join(missing)} missing"
        raise MrlError(problem, hint="give all three, or --distributed alone")
    if processes is not None and process is not None and not 0 <= process < processes:
        expected = f"0 to {processes - 1}, as there are {processes} processes"
        raise MrlError(f"{process}, expected {expected}", where="--process")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise MrlError(f"{coordinator!r}, expected HOST:PORT", where="--coordinator")
    if coordinator is not None and process:
        _wait_for(coordinator, timeout)
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise MrlError(
            f"the hosts could not be joined ({first_line(error)})",
            where="--coordinator" if coordinator else "--distributed",
            hint="pass --coordinator, --process and --processes",
        ) from error


def _wait_for(coordinator: str, timeout: int) -> None:
    """Raise where the coordinator does not answer, as JAX itself would abort the process."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise MrlError(
                    f"{coordinator} did not answer within {timeout} s ({describe_os_error(error)})",
                    where="--coordinator",
                    hint="check the address, and that process 0 was started there",
                ) from error
            time.sleep(0.5)


def is_primary() -> bool:
    """Whether this host writes the files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Go on when every host has come here; at once where there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def host_shard() -> tuple[int, int]:
    """(number of this host, number of hosts): whose rows of a batch it reads."""
    return jax.process_index(), jax.process_count()


def host_rows(count: int, shard: tuple[int, int]) -> slice:
    """A host's rows of `count`; `shard` is its number and that of all, as `host_shard`."""
    host, hosts = shard
    return slice(count * host // hosts, count * (host + 1) // hosts)


def batch_sharded(devices: Sequence[Any], axis: str = "rows") -> NamedSharding:
    """Where arrays go whose rows some devices share."""
    mesh = Mesh(np.asarray(devices), (axis,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(axis))


def replicated(rows: NamedSharding) -> NamedSharding:
    """Where arrays go that each of those devices has whole."""
    return NamedSharding(rows.mesh, PartitionSpec())


def put_global(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Arrays that every host holds whole, onto the devices of all of them."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda place: x[place]), tree
    )


@contextlib.contextmanager
def primary_first(name: str) -> Iterator[None]:
    """The block on the first host, and then, whether it failed or not, on all others."""
    if not is_primary():
        barrier(name)
    try:
        yield
    finally:
        if is_primary():
            barrier(name)


def run_on_primary(work: Callable[[], None]) -> None:
    """Do work on one host, with files that all see, while the others wait.

    Raises:
        MrlError: on every host, as the first one's work raised it; also where that raised
            anything else, which the first host then raises itself.
    """
    if jax.process_count() == 1:
        work()
        return
    problem, error = _end_of(work) if is_primary() else ("", None)
    with _of_all_hosts():
        message = _text_in(multihost_utils.broadcast_one_to_all(_line_of(problem)))
    if message:
        raise _to_raise(f"the first host failed: {message}", error)


def run_on_all(work: Callable[[], None]) -> None:
    """Do each host's own share of a work, and go on when every host has ended its share.

    Raises:
        MrlError: on every host, where the work of one raised it; likewise.
    """
    if jax.process_count() == 1:
        work()
        return
    problem, error = _end_of(work)
    with _of_all_hosts():
        lines = np.asarray(multihost_utils.process_allgather(_line_of(problem)))
    for host, line in enumerate(lines):
        if message := _text_in(line):
            raise _to_raise(f"process {host} of {len(lines)} failed: {message}", error)


@contextlib.contextmanager
def _of_all_hosts() -> Iterator[None]:
    """Around an exchange: a host that is gone as one line, where the others learn of it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        problem = f"another host of this run is gone ({first_line(error)})"
        raise MrlError(problem, hint="start the same command on all hosts again") from error


def _end_of(work: Callable[[], None]) -> tuple[str, Exception | None]:
    """The message of a work's failure for the other hosts, "" without one; and its exception.

    Every exception has one, as the others would wait for a host that is gone.
    """
    try:
        work()
    except MrlError as error:
        return str(error), error
    except OSError as error:
        return str(MrlError(describe_os_error(error), where=error.filename)), error
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}", error
    return "", None


def _to_raise(message: str, error: Exception | None) -> Exception:
    """The exception of this host: the common message, or its own where that is no user's error."""
    return MrlError(message) if isinstance(error, MrlError | OSError | None) else error


def common_token() -> str:
    """A word that is new, and the same on every host: for names that no other run has."""
    token = uuid.uuid4().hex
    if jax.process_count() == 1:
        return token
    with _of_all_hosts():
        return _text_in(multihost_utils.broadcast_one_to_all(_line_of(token)))


def _line_of(text: str) -> HostArray:
    """A message as it is sent, [LINE] uint8."""
    line = np.zeros(LINE, np.uint8)
    sent = text.encode("utf-8", "backslashreplace")[:LINE]
    line[: len(sent)] = np.frombuffer(sent, np.uint8)
    return line


def _text_in(line: Any) -> str:
    return bytes(np.asarray(line)).rstrip(b"\0").decode(errors="replace")


def assert_equal_across_hosts(facts: Mapping[str, str]) -> None:
    """Refuse hosts that differ in one of the `facts`, which have the same names on each.

    Raises:
        MrlError: on every host, naming what differs and on which.
    """
    if jax.process_count() == 1:
        return
    mine = [hashlib.sha256(value.encode()).digest()[:16] for value in facts.values()]
    table = np.frombuffer(b"".join(mine), np.int32).reshape(len(facts), 4)
    with _of_all_hosts():
        gathered = np.asarray(multihost_utils.process_allgather(table))
    for place, name in enumerate(facts):
        differing = np.flatnonzero((gathered[:, place] != gathered[0, place]).any(axis=1))
        if len(differing):
            hosts = ", ".join(map(str, differing))
            raise MrlError(
                f"hosts disagree on the {name}: process {hosts} of {len(gathered)} differs from "
                "process 0",
                hint="give every host the same command, the same code and the same files",
            )


def should_stop(step: int, stopped: threading.Event) -> bool:
    """Whether the run ends here: this process got SIGTERM (`stopped`), or a host of several did.

    All hosts ask at the same `step`, and get the same answer.
    """
    if jax.process_count() == 1:
        return stopped.is_set()
    return bool(multihost_utils.reached_preemption_sync_point(step))
