"""How every test runs: strict promotion, exact matmuls, two CPU devices, no network."""

import atexit
import os
import shutil
import tempfile

# Small programs are compiled once for all tests, workers and their subprocesses: the first
# process that comes here makes the folder, and those it starts inherit it.
CACHE = "JAX_COMPILATION_CACHE_DIR"
if CACHE not in os.environ:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="mrl_jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax  # noqa: E402
import pytest  # noqa: E402

# For the processes that tests start: they compile in a third of the time.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="module")
def quick_to_compile():
    """Programs compile in a third of the time, and run slower: for modules that make many."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


SLOW = ("core/test_distributed", "training/", "packaging/", "converters/test_verify", "docs/")
"""What takes longest begins first, so that no worker ends alone with one long file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((n for n, name in enumerate(SLOW) if f"/tests/{name}" in path), len(SLOW))

    items.sort(key=place)
