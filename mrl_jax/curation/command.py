"""Make training manifests of raw recordings and texts: `mrl-jax curate --config NAME [a.b=c ...]`.

NAME is a preset or the path of a Python file. Fields of a stage or source are named by its name:
stages.segment.longest=12. The same command goes on with a run that was stopped or killed.
"""

from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.cli import CommandParser
from mrl_jax.core.config import load_config
from mrl_jax.core.paths import local_path
from mrl_jax.core.presets import find_config
from mrl_jax.curation.config import CurationConfig, override_curation
from mrl_jax.curation.run import curate


def main(argv: Sequence[str], *, prog: str = "mrl-jax curate") -> int:
    """The command; `prog` is how it was called, for the help text.

    Raises:
        MrlError: wrong words; whatever is wrong with the config or the run.
    """
    parser = CommandParser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a preset, or a Python file, which is run")
    parser.add_argument(
        "--workdir", type=local_path("--workdir"), help="folder of the run; default: runs/NAME"
    )
    parser.add_argument("assignments", nargs="*", metavar="a.b=c", help="changed fields")
    args = parser.parse_intermixed_args(argv)  # Fields may stand between options.
    config = load_config(find_config(args.config), CurationConfig, where=args.config)
    config = override_curation(config, args.assignments)
    curate(config, args.workdir or Path("runs") / config.name)
    return 0
