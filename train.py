"""Train what a config describes: `python train.py --config configs/NAME.py [a.b=c ...]`.

The same command goes on with a run that was stopped. A pipeline, of which nothing is trained,
is checked and written. Exit status: 0 finished, 143
stopped by SIGTERM after a checkpoint, 2 wrong input.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.cli import CommandParser, run_command


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python train.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="a file of configs/")
    parser.add_argument("--workdir", type=Path, help="folder of the run; default: runs/NAME")
    text = "join a run of several hosts that the cluster tells of (TPU pod, SLURM, Kubernetes)"
    parser.add_argument("--distributed", action="store_true", help=text)
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="or where process 0 listens")
    parser.add_argument("--process", type=int, help="this process' number, from 0")
    parser.add_argument("--processes", type=int, help="how many there are")
    text = "seconds to wait for the coordinator; default: %(default)s"
    parser.add_argument("--wait", type=int, default=300, help=text)
    parser.add_argument("assignments", nargs="*", metavar="a.b=c", help="changed fields")
    args = parser.parse_intermixed_args(argv)  # Fields may stand between options.

    numbers = (args.coordinator, args.process, args.processes)
    if args.distributed or any(value is not None for value in numbers):
        from mrl_jax.core.distributed import initialize_distributed

        initialize_distributed(*numbers, timeout=args.wait)
    from mrl_jax.core.compilation_cache import keep_compiled
    from mrl_jax.core.config import load_config, override
    from mrl_jax.inference.cascade_config import CascadeConfig, write_cascade
    from mrl_jax.training.contrastive.config import ExperimentConfig
    from mrl_jax.training.contrastive.run import train
    from mrl_jax.training.ctc.config import CtcExperiment
    from mrl_jax.training.ctc.run import train_recogniser
    from mrl_jax.training.text_tower.config import TextStageExperiment
    from mrl_jax.training.text_tower.run import train_text

    keep_compiled()
    runs = {
        ExperimentConfig: train,
        TextStageExperiment: train_text,
        CtcExperiment: train_recogniser,
        CascadeConfig: write_cascade,
    }
    config = override(load_config(args.config, *runs), args.assignments)
    run = runs[type(config)](config, args.workdir or Path("runs") / config.name)
    return 0 if run.finished else 143


if __name__ == "__main__":
    sys.exit(run_command(main))
