"""A run whose folder is at an address: owned there too, brought here first, uploaded as it goes.

What is at the address counts: a run goes on from there, on any machine, and what another machine
has of it is replaced.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mrl_jax.core.addresses import address_of, place_of
from mrl_jax.core.distributed import host_shard
from mrl_jax.core.errors import MrlError
from mrl_jax.core.object_store import ObjectStore
from mrl_jax.core.records import as_record, readable_as
from mrl_jax.core.remote import fetch, upload
from mrl_jax.core.run_lock import LEFT, LOCK_FILE, TOUCH_SECONDS, Owner, owned

PRUNED = ("checkpoints/", "head-")
"""Beginnings of names that a run removes as it goes, and so are removed at the address."""
SETTLE_SECONDS = 1.0
"""After a stale owner was replaced: others who saw it too have written by then."""


class RunFolder:
    """A run's folder that is ours.

    Args:
        workdir: the folder.
        lock: at its address; None for a folder of this machine alone.
        log: gets a line about an upload that failed.
    """

    def __init__(self, workdir: Path, lock: "_RemoteLock | None", log: Callable[[str], None]):
        self._workdir, self._lock, self._log = workdir, lock, log

    def save(self) -> None:
        """Upload what has changed; where the store cannot be reached, with the next call.

        Raises:
            MrlError: another run owns the folder by now.
        """
        if self._lock is None:
            return
        self._lock.check_ours()
        try:
            upload(self._workdir, prune=PRUNED)
        except MrlError as error:
            self._log(f"note: the checkpoint stays on this machine for now: {error}")

    def finish(self) -> None:
        """Upload what has changed.

        Raises:
            MrlError: it cannot be; another run owns the folder by now.
        """
        if self._lock is not None:
            self._lock.check_ours()
            upload(self._workdir, prune=PRUNED)


@contextlib.contextmanager
def owned_run(
    workdir: Path, log: Callable[[str], None] = print, *, logs: Sequence[str] = ()
) -> Iterator[RunFolder]:
    """Own a run's folder, here and at its address, while the block runs.

    Args:
        workdir: the folder, see `core.run_lock.owned`; or the place of an address. What is at the
            address is brought there, and uploaded when the block has ended in any way but a kill.
        log: gets a line about an owner that ended without giving the folder back.
        logs: files and folders in it that are uploaded meanwhile as well, while they grow.

    Raises:
        MrlError: another run owns it; a run of several processes, whose folder all must see; the
            store cannot be read or written.
    """
    address = address_of(workdir)
    if address is None:
        with owned(workdir, log):
            yield RunFolder(workdir, None, log)
        return
    if host_shard()[1] > 1:
        raise MrlError(
            "a run of several processes writes to a folder that all of them see, and not to an "
            "address",
            where=address,
            hint="choose a mounted folder as --workdir; data and towers may be at addresses",
        )
    with owned(workdir, log), _RemoteLock(address, log) as lock:
        folder, paths = RunFolder(workdir, lock, log), []
        with lock.touched(lambda: _upload_logs(paths)):
            fetch(address, whole=True, optional=True)
            paths += [workdir / name for name in logs]  # Those of before do not count.
            try:
                yield folder
            except BaseException:
                # What was trained is not lost with an error, and the error is the one to tell.
                with contextlib.suppress(MrlError):
                    folder.finish()
                raise
        folder.finish()


def _upload_logs(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists():
            with contextlib.suppress(MrlError):  # It is tried again.
                upload(path)


class _RemoteLock:
    """The lock at an address, an object that names its owner; a context manager.

    It is written anew as often as a local one is touched. The times are those of the store.
    """

    def __init__(self, address: str, log: Callable[[str], None]):
        self._run, self._address = address, f"{address}/{LOCK_FILE}"
        self._store, self._log = ObjectStore(address), log
        self._text = Owner.current().to_text().encode()
        self._lost, self._turn = threading.Event(), threading.Lock()

    def __enter__(self) -> "_RemoteLock":
        gone = self._remove_stale()
        if not self._store.write(self._address, self._text, new=True):
            problem = "another run began to write here just now"
            raise MrlError(problem, where=self._run, hint="choose another --workdir")
        if gone:
            time.sleep(SETTLE_SECONDS)
            self.check_ours()
            self._log(LEFT.format(gone))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(MrlError):
            self._read()
            if not self._lost.is_set():
                self._store.remove([self._address])

    @contextlib.contextmanager
    def touched(self, work: Callable[[], None]) -> Iterator[None]:
        """Signs of life while the block runs; `work` is done with every one of them."""
        ended = threading.Event()

        def touch() -> None:
            while not ended.wait(TOUCH_SECONDS) and not self._lost.is_set():
                with contextlib.suppress(MrlError), self._turn:
                    self._read()
                    if not self._lost.is_set():
                        self._store.write(self._address, self._text)
                work()

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def check_ours(self) -> None:
        """Raises an `MrlError` where another run has taken the folder over."""
        # An error is left to the upload. No sign of ours is on its way once it is known as lost.
        with contextlib.suppress(MrlError), self._turn:
            self._read()
        if self._lost.is_set():
            problem = "another run writes here by now, as this one gave no sign of life for long"
            raise MrlError(problem, where=self._run, hint="stop one of the two")

    def _read(self) -> None:
        if self._store.read(self._address) not in (self._text, None):
            self._lost.set()

    def _remove_stale(self) -> str:
        """Who left the lock, if anyone; raises where its owner lives."""
        data = self._store.read(self._address)
        if data is None:
            return ""
        try:
            with readable_as("the owner of a run", place_of(self._address), hint=""):
                owner = as_record(json.loads(data), Owner)
        except MrlError:
            self._store.remove([self._address])
            return "an owner unknown"
        owner.check_gone(self._silent_seconds, self._run)
        self._store.remove([self._address])
        return str(owner)

    def _silent_seconds(self) -> float:
        """How long ago the lock was written, by the store's clock."""
        probe = f"{self._run}/.{LOCK_FILE}.{os.getpid()}"
        self._store.write(probe, b"")
        try:
            return self._store.changed_at(probe) - self._store.changed_at(self._address)
        finally:
            self._store.remove([probe])
