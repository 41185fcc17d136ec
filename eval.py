"""Measure a trained model: `python eval.py REPORT --model DIR --data DIR`, as `mrl-jax eval`."""

import functools
import sys

from mrl_jax.core.cli import run_command
from mrl_jax.evaluation.command import main as evaluate

main = functools.partial(evaluate, prog="python eval.py")

if __name__ == "__main__":
    sys.exit(run_command(main))
