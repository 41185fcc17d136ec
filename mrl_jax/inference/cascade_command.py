"""Check the parts of a cascade and write cascade.json, which `mrl-jax eval compare` reads.

A cascade is a recogniser, a translator and a text tower, one after the other; nothing is trained.
"""

import sys
from collections.abc import Sequence

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.config import load_config, override
from mrl_jax.core.paths import output_path
from mrl_jax.core.presets import find_config
from mrl_jax.inference.cascade_config import CascadeConfig, write_cascade


def main(argv: Sequence[str], *, prog: str = "mrl-jax cascade") -> int:
    parser = CommandParser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--config", required=True, help="a preset's name, or a Python file, which is run"
    )
    parser.add_argument(
        "--out", type=output_path, required=True, help="folder that gets cascade.json"
    )
    parser.add_argument("assignments", nargs="*", metavar="a.b=c", help="changed fields")
    args = parser.parse_intermixed_args(argv)  # Fields may stand between options.
    config = load_config(find_config(args.config), CascadeConfig, where=args.config)
    write_cascade(override(config, args.assignments), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
