"""Time and peak memory of converting, loading and exporting the 0.6B-size checkpoint.

    python benchmarks/conversion.py

The checkpoint has random weights in bfloat16, as the published one is stored. Peak
memory is the operating system's own figure for each process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import published_config, record, summarize

ROUNDS = 3
LOAD = "import sys, jax, mrl_jax; m = mrl_jax.load_qwen3(sys.argv[1]); print(m.config.width)"
CONVERTERS = ["-m", "converters"]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "config.json").write_text(json.dumps(published_config("qwen3-0.6b")))
        source, tower, back = folder / "source", folder / "tower", folder / "back"
        _run(
            *CONVERTERS, "random-init", "qwen3", folder / "config.json", source,
            "--dtype", "bfloat16",
        )  # fmt: skip
        size = (source / "model.safetensors").stat().st_size
        steps: dict[str, list[Any]] = {
            "import only": ["-c", "import converters.convert"],
            "convert": [*CONVERTERS, "qwen3", source, tower, "--overwrite"],
            "load": ["-c", LOAD, tower],
            "export": [*CONVERTERS, "export", tower, back, "--overwrite"],
        }
        figures: dict[str, Any] = {}
        for name, command in steps.items():
            runs = [_run(*command) for _ in range(ROUNDS)]
            peak = max(memory for _, memory in runs)
            figures[name] = {
                **summarize([seconds for seconds, _ in runs]),
                "peak_bytes": peak,
                "peak_over_file": peak / size,
            }
            print(f"{name:<12} {figures[name]['median']:6.1f} s   {peak / size:.2f} x the file")
        figures["round_trip_equal"] = _tensors_equal(source, back)
    record(
        "conversion",
        {
            "file_bytes": size,
            "figures": figures,
            "target": "peak of convert at most 1.5 x the file",
        },
    )


def _run(*arguments: Any) -> tuple[float, int]:
    """Seconds and peak resident bytes of one Python process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with status {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def _tensors_equal(one: Path, other: Path) -> bool:
    import ml_dtypes  # noqa: F401 - makes numpy know bfloat16
    import numpy as np
    from safetensors import safe_open

    with (
        safe_open(one / "model.safetensors", "numpy") as a,
        safe_open(other / "model.safetensors", "numpy") as b,
    ):
        return set(a.keys()) == set(b.keys()) and all(
            np.array_equal(a.get_tensor(key).view(np.uint16), b.get_tensor(key).view(np.uint16))
            for key in a.keys()  # noqa: SIM118 - not a mapping
        )


if __name__ == "__main__":
    main()
