"""The project's own commands, run as a user would run them."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from mrl_jax.core.errors import MrlError

ROOT = Path(__file__).parents[2]


def run_python(*arguments: object) -> None:
    """Show a command, run it, and say how long it took.

    Raises:
        MrlError: it ended with another status than 0.
    """
    words = [str(argument) for argument in arguments]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    begun = time.monotonic()
    done = subprocess.run([sys.executable, *words], check=False)
    if done.returncode:
        raise MrlError(f"the command above ended with status {done.returncode}")
    print(f"({time.monotonic() - begun:.0f} s)", flush=True)
