"""How much memory this process may still take."""

import resource
from pathlib import Path

import jax

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that a computation may still take; None where the system does not tell.

    On an accelerator those of its own memory. On a CPU the least of what the machine has left,
    the control group (a container) and the process (`ulimit -v`).
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        counts = device.memory_stats() or {}
        if "bytes_limit" not in counts:
            return None
        return int(counts["bytes_limit"]) - int(counts.get("bytes_in_use", 0))
    known = [free for free in (_of_machine(), _of_group(), _of_process()) if free is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    for line in _text(MEMINFO).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_group() -> int | None:
    limit, used = _text(CGROUP / "memory.max").strip(), _text(CGROUP / "memory.current").strip()
    return int(limit) - int(used) if limit.isdigit() and used.isdigit() else None


def _of_process() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(STATM).split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0]) * resource.getpagesize()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
