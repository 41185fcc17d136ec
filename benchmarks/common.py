"""What all benchmarks share: full-size configs, timing, and results with machine and versions."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PUBLISHED = Path(__file__).parent / "published"
FAMILIES = {
    "qwen3-0.6b": "qwen3",
    "hubert-base": "speech",
    "hubert-large": "speech",
    "wav2vec2-xls-r-300m": "speech",
}
"""Full-size towers, and the converter that each one needs."""


def published_config(tower: str) -> dict[str, Any]:
    """The config.json of a full-size tower, as on the Hugging Face hub.

    HuBERT's has its masking switched off: transformers would otherwise expect a mask embedding,
    which inference never reads.
    """
    return dict(json.loads((PUBLISHED / f"{tower}.json").read_text()))


def summarize(seconds: Sequence[float]) -> dict[str, Any]:
    """Median and range of repeated timings."""
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "repeats": len(seconds),
    }


def timed(run: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def run_worker(script: str, *words: str, devices: int) -> dict[str, Any]:
    """What `script --worker WORDS` prints last, in a process of its own with simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, script, "--worker", *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def record(name: str, figures: dict[str, Any]) -> None:
    """Write results/`name`.json: the figures, the command, the machine, the versions."""
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": _machine(),
        "versions": _versions(),
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path.relative_to(Path(__file__).parent.parent)}")


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("jax", "flax", "orbax-checkpoint", "torch", "transformers", "safetensors"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def forget_peak() -> None:
    """From here on the peak of this process is that of what follows."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_bytes(name: str) -> int:
    """Memory that this process holds now ("VmRSS"), or has held at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
