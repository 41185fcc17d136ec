"""Where compiled programs are kept."""

from typing import Any

import jax
import pytest

from mrl_jax.core.compilation_cache import keep_compiled

CONFIG: Any = jax.config  # Its options are no attributes for a type checker.


@pytest.fixture
def cache():
    before = CONFIG.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_users_cache_is_the_default_and_the_environment_counts(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled()
    assert CONFIG.jax_compilation_cache_dir is None
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    keep_compiled()
    assert CONFIG.jax_compilation_cache_dir == str(tmp_path / "mrl_jax" / "programs")
