"""Which process wrote something, and whether it is still there: numbers of processes are reused."""

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """A process among all of all machines and all times.

    Attributes:
        host: name of its machine.
        space: in which its number is its own: of a container, and of one boot of the machine;
            "" where the system does not say.
        pid: its number there.
        start: when it began, in clock ticks since the boot; 0 where the system does not say.
    """

    host: str
    space: str
    pid: int
    start: int

    @classmethod
    def current(cls) -> "ProcessId":
        """This process."""
        pid = os.getpid()
        return cls(host=socket.gethostname(), space=_space(), pid=pid, start=start_of(pid))

    def is_near(self) -> bool:
        """Whether this process can see if that one is alive."""
        return (self.host, self.space) == (socket.gethostname(), _space())

    def is_alive(self) -> bool:
        """Of a near one: whether it is running still, and no later one with its number."""
        return is_alive(self.pid, self.start)


def is_alive(pid: int, start: int = 0) -> bool:
    """Whether there is a process of this number, and it began at `start` if that is known."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    except OverflowError:  # No number of a process.
        return False
    if _state(pid) in ("Z", "X"):  # Ended, and nobody has asked for its status.
        return False
    return start in (0, start_of(pid))


def start_of(pid: int) -> int:
    """When a process began, in clock ticks since the boot; 0 where the system does not say."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def _state(pid: int) -> str:
    return (_stat(pid) or [""])[0]


def _stat(pid: int) -> list[str]:
    """Fields of proc(5)'s stat, from the third on: the second holds a name with any signs in it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
    return []


def _space() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""
