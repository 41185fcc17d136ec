"""How every test runs: strict promotion, exact matmuls, two CPU devices, no network."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

# Small programs are compiled once for all tests, workers and their subprocesses: the first
# process that comes here makes the folder, and those it starts inherit it.
CACHE = "JAX_COMPILATION_CACHE_DIR"
if CACHE not in os.environ:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="mrl_jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)

# Programs compile in a quarter of the time, here and in the processes that tests start. With
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 and XLA_FLAGS="" they are those of users.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith("0.10."):  # XLA ends at a flag unknown to it.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


PROGRAM_MAPS = 16_000
"""A process may have 65,530 memory maps, and one that wants more crashes in the compiler."""


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Compiled programs are let go after a module, once they take many memory maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > PROGRAM_MAPS:
        jax.clear_caches()
        gc.collect()


SLOW = ("core/test_distributed", "training/", "packaging/", "converters/test_verify", "docs/")
"""What takes longest begins first, so that no worker ends alone with one long file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((n for n, name in enumerate(SLOW) if f"/tests/{name}" in path), len(SLOW))

    items.sort(key=place)
