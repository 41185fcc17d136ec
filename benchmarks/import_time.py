"""What `import mrl_jax` costs beside jax and flax: fresh processes, in turn.

python benchmarks/import_time.py
"""

import subprocess
import sys
import time

from common import record, summarize

STATEMENTS = {
    "jax and flax": "import jax, flax",
    "jax and flax.nnx": "import jax; from flax import nnx",
    "mrl_jax": "import mrl_jax",
    "mrl_jax and jax and flax": "import jax, flax, mrl_jax",
    "mrl_jax with both towers": "import mrl_jax; mrl_jax.load_qwen3; mrl_jax.load_hubert",
}
ROUNDS = 9


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for round_number in range(ROUNDS + 1):
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            if round_number:  # The first round warms the disk cache.
                seconds[name].append(time.perf_counter() - start)
    figures = {name: summarize(times) for name, times in seconds.items()}
    base = figures["jax and flax"]["median"]
    for name, figure in figures.items():
        figure["ratio"] = figure["median"] / base
        print(f"{name:<26} {figure['median']:.2f} s  {figure['ratio']:.2f} x jax and flax")
    record("import_time", {"figures": figures, "target": "mrl_jax at most 1.3 x jax and flax"})


if __name__ == "__main__":
    main()
