"""Programs compiled once for all runs of a user."""

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Keep what takes a second or more to compile, in the user's cache, for later runs.

    `JAX_COMPILATION_CACHE_DIR` names another folder, and empty it keeps nothing.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # A user without a home.
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(home) / "mrl_jax" / "programs"))
