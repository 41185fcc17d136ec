"""One owner of a run's folder: a file in it names the process that writes there."""

import contextlib
import dataclasses
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mrl_jax.core.distributed import run_on_primary
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder
from mrl_jax.core.processes import ProcessId
from mrl_jax.core.records import as_record, read_object, readable_as

LOCK_FILE = "run.lock"
TOUCH_SECONDS = 15.0
"""An owner touches its file so often, as a sign of life for other machines."""
STALE_SECONDS = 120.0
"""An owner on another machine that gave no sign for so long is gone."""
LEFT = "note: the folder was left by {}, which ended without giving it back"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """The contents of the file.

    Attributes:
        process: that writes to the folder.
        since: when it began to, for the reader.
    """

    process: ProcessId
    since: str

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host} since {self.since}"

    @classmethod
    def current(cls) -> "Owner":
        """This process, from now on."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(process=ProcessId.current(), since=since)

    def to_text(self) -> str:
        """As it is written."""
        return json.dumps(dataclasses.asdict(self))

    def check_gone(self, silent_seconds: Callable[[], float], where: object) -> None:
        """Raises an `MrlError` where the owner lives.

        Args:
            silent_seconds: gives how long ago it gave its last sign; asked of other machines'.
            where: it writes to.
        """
        if self.process.is_near():
            alive, hint = self.process.is_alive(), "wait until it has ended, or stop it"
        else:
            silent = silent_seconds()
            alive = silent < STALE_SECONDS
            hint = f"its last sign is {silent:.0f} s old; if it is gone, remove {LOCK_FILE} there"
        if alive:
            problem = f"another run writes here: {self}"
            raise MrlError(problem, where=where, hint=f"choose another --workdir; {hint}")


@contextlib.contextmanager
def owned(workdir: Path, log: Callable[[str], None] = print) -> Iterator[None]:
    """Own a run's folder, made if it is not there, while the block runs.

    Of the processes of one run the first is the owner. A folder that was made here and is empty
    after the block is removed.

    Args:
        workdir: the folder.
        log: gets a line about an owner that ended without giving the folder back.

    Raises:
        MrlError: on every process of the run: another run owns it.
    """
    lock = _Lock(workdir)
    try:
        run_on_primary(lambda: lock.acquire(log))
        yield
    finally:
        lock.release()


class _Lock:
    """The file of one folder, and what this process made for it."""

    def __init__(self, workdir: Path):
        self.workdir, self.path = workdir, workdir / LOCK_FILE
        self.text: str | None = None
        self.made: list[Path] = []
        self.ended = threading.Event()

    def acquire(self, log: Callable[[str], None]) -> None:
        """Write the file; raises an `MrlError` where another owner lives."""
        folders = (self.workdir, *self.workdir.absolute().parents)
        self.made = [folder for folder in folders if not folder.exists()]
        make_folder(self.workdir)
        text = Owner.current().to_text()
        with alone(self.workdir):
            gone = self._remove_stale()
            _create(self.path, text)
            self.text = text
        if gone:
            log(LEFT.format(gone))
        threading.Thread(target=self._touch, daemon=True).start()

    def release(self) -> None:
        """Remove the file, if it is still ours, and folders that we made and left empty."""
        self.ended.set()
        with contextlib.suppress(OSError):
            if self.text is not None and self.path.read_text(encoding="utf-8") == self.text:
                self.path.unlink()
        with contextlib.suppress(OSError):
            for folder in self.made:
                folder.rmdir()

    def _remove_stale(self) -> str:
        """Who left the file, if anyone; raises where its owner lives."""
        if not self.path.exists():
            return ""
        try:
            with readable_as("the owner of a run", self.path, hint=""):
                owner = as_record(read_object(self.path), Owner)
        except MrlError:
            self.path.unlink(missing_ok=True)
            return "an owner unknown"
        owner.check_gone(lambda: _silent_seconds(self.path), self.workdir)
        self.path.unlink(missing_ok=True)
        return str(owner)

    def _touch(self) -> None:
        while not self.ended.wait(TOUCH_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _silent_seconds(path: Path) -> float:
    """How long ago a file was touched, by the clock of its own disk."""
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _create(path: Path, text: str) -> None:
    """Write a file that is not there yet, whole at once where the disk has hard links."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        try:
            os.link(partial, path)
        except FileExistsError:
            raise
        except OSError:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError as error:
        problem = "another run began to write here just now"
        raise MrlError(problem, where=path.parent, hint="choose another --workdir") from error
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process of this machine is in such a block, where the disk has locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(handle)
