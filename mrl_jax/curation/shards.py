"""Rows looked at one by one: in shards, in processes, each shard a file that appears whole.

A killed run leaves its finished shards, and the next one goes on from them. How many rows make a
shard follows from the table alone, so that the files fit whatever the number of processes.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.rows import Row, read_rows, write_rows
from mrl_jax.curation.stage import BrokenRow, RowStage

SMALLEST, LARGEST = 1, 2048
"""Rows of a shard."""
_SHARDS = 400
"""About how many a large table has."""


class Workers:
    """Processes that are started when they are first needed, and serve all stages of a run.

    Args:
        count: of processes; with 1 there is none beside the caller's.
    """

    def __init__(self, count: int):
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    @property
    def pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Spawned, as JAX's threads would be missing in a forked process.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self.count, mp_context=context, initializer=_follow_parent
            )
        return self._pool

    def close(self) -> None:
        """End the processes; what they were just doing is left out."""
        if self._pool is None:
            return
        processes = list(self._pool._processes.values())
        for process in processes:
            process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


@contextlib.contextmanager
def open_workers(count: int) -> Iterator[Workers]:
    """`Workers` that end with the block."""
    workers = Workers(count)
    try:
        yield workers
    finally:
        workers.close()


def run_shards(stage: RowStage, rows: Sequence[Row], folder: Path, workers: Workers) -> list[Row]:
    """The table that a stage makes of another, row by row.

    Args:
        stage: as it was made, before it was used.
        rows: dropped ones are passed by.
        folder: of the finished shards, made if it is not there; those in it are taken.
        workers: that compute the others.

    Raises:
        MrlError: of the stage, for anything but a broken row; a process ended by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = min(max(-(-len(rows) // _SHARDS), SMALLEST), LARGEST)
    shards = [rows[start : start + size] for start in range(0, len(rows), size)]
    paths = [folder / f"{number:05d}.jsonl" for number in range(len(shards))]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    bar = tqdm(total=len(rows), desc=stage.name, unit=" rows", disable=None)
    with bar:
        bar.update(len(rows) - sum(len(shards[number]) for number in missing))
        todo = [(shards[number], paths[number]) for number in missing]
        for done in _computed(pickle.dumps(stage), todo, workers):
            bar.update(done)
    return [row for path in paths for row in read_rows(path)]


def _computed(
    stage: bytes, todo: Sequence[tuple[Sequence[Row], Path]], workers: Workers
) -> Iterator[int]:
    """Writes shards; yields how many rows each took, in the order in which they are ready."""
    if workers.count == 1 or len(todo) < 2:
        yield from (_write_shard(stage, rows, path) for rows, path in todo)
        return
    futures = [workers.pool.submit(_write_shard, stage, rows, path) for rows, path in todo]
    try:
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        hint = "it may have taken too much memory: set workers=1, or cut long recordings"
        raise MrlError("a process of the curation was ended from outside", hint=hint) from error
    finally:
        for future in futures:
            future.cancel()


def _write_shard(stage: bytes, rows: Sequence[Row], path: Path) -> int:
    made = _stage_of(stage, path.parent)
    write_rows(path, (after for row in rows for after in _after(made, row)))
    return len(rows)


@functools.lru_cache(maxsize=1)
def _stage_of(pickled: bytes, folder: Path) -> RowStage:
    """A stage keeps the models that it loaded while its process works on it.

    Args:
        folder: of its shards, whose name changes with the models' files.
    """
    return pickle.loads(pickled)  # Of the run's own process.


def _after(stage: RowStage, row: Row) -> Sequence[Row]:
    if row.dropped is not None:
        return [row]
    try:
        return stage.apply(row)
    except BrokenRow as error:
        return [row.drop(stage.name, error.problem)]


def _follow_parent() -> None:
    """A process ends with the one that started it, also where that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends us.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
