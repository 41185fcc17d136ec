"""The project's own commands, run as a user would run them."""

import shlex
import subprocess
import sys
import time

from mrl_jax.core.errors import MrlError


def run_mrl_jax(*arguments: object) -> None:
    """Print an `mrl-jax` command line, run it in a process of its own, and print how long it took.

    Raises:
        MrlError: it ended with another status than 0.
    """
    words = [str(argument) for argument in arguments]
    print(f"\n$ mrl-jax {shlex.join(words)}", flush=True)
    begun = time.monotonic()
    # As a module, since the script may not be on the PATH.
    command = [sys.executable, "-m", "mrl_jax.core.commands", *words]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise MrlError(f"the command above ended with status {status}")
    print(f"({time.monotonic() - begun:.0f} s)", flush=True)
