"""Train what a config describes: `python train.py --config configs/NAME.py [a.b=c ...]`.

The same as `mrl-jax train`, from a checkout.
"""

import functools
import sys

from mrl_jax.core.cli import run_command
from mrl_jax.training import command

main = functools.partial(command.main, prog="python train.py")

if __name__ == "__main__":
    sys.exit(run_command(main))
