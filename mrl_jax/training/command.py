"""Train what a config describes: `mrl-jax train --config NAME [a.b=c ...]`.

NAME is a preset or the path of a Python file. The same command goes on with a run that was
stopped. Exit status: 0 finished, 143 stopped by SIGTERM after a checkpoint, 2 wrong input.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.cli import CommandParser
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import output_path


def main(argv: Sequence[str], *, prog: str = "mrl-jax train") -> int:
    """The command; `prog` is how it was called, for the help text.

    Raises:
        MrlError: wrong words; whatever is wrong with the config or the run.
    """
    parser = CommandParser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a preset, or a Python file, which is run")
    parser.add_argument("--workdir", type=output_path, help="folder of the run; default: runs/NAME")
    text = "join a run of several hosts; the cluster names them (TPU pod, SLURM, Kubernetes)"
    parser.add_argument("--distributed", action="store_true", help=text)
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="or where process 0 listens")
    parser.add_argument("--process", type=int, help="this process' number, from 0")
    parser.add_argument("--processes", type=int, help="how many there are")
    text = "seconds to wait for the coordinator; default: %(default)s"
    parser.add_argument("--wait", type=int, default=300, help=text)
    text = (
        "print shapes, memory of a device and operations of a step, and train nothing; "
        "train.devices=N then may be more than there are"
    )
    parser.add_argument("--dry-run", action="store_true", help=text)
    parser.add_argument("assignments", nargs="*", metavar="a.b=c", help="changed fields")
    args = parser.parse_intermixed_args(argv)  # Fields may stand between options.

    numbers = (args.coordinator, args.process, args.processes)
    if args.distributed or any(value is not None for value in numbers):
        from mrl_jax.core.distributed import initialize_distributed

        initialize_distributed(*numbers, timeout=args.wait)
    from mrl_jax.core.compilation_cache import keep_compiled
    from mrl_jax.core.config import load_config, override
    from mrl_jax.core.presets import find_config
    from mrl_jax.inference.cascade_config import CascadeConfig
    from mrl_jax.training.config import RunConfig
    from mrl_jax.training.contrastive.config import ExperimentConfig
    from mrl_jax.training.contrastive.run import ContrastiveTask
    from mrl_jax.training.ctc.config import CtcExperiment
    from mrl_jax.training.ctc.run import CtcTask
    from mrl_jax.training.dry_run import dry_run, simulate_devices
    from mrl_jax.training.text_tower.config import TextStageExperiment
    from mrl_jax.training.text_tower.run import TextTask
    from mrl_jax.training.trainer import Task, run

    keep_compiled()
    tasks: dict[type[RunConfig], Task[Any, Any]] = {
        ExperimentConfig: ContrastiveTask(),
        TextStageExperiment: TextTask(),
        CtcExperiment: CtcTask(),
    }
    config = load_config(find_config(args.config), *tasks, CascadeConfig, where=args.config)
    if isinstance(config, CascadeConfig):
        raise MrlError(
            "is a cascade of trained parts, which is not trained",
            where=args.config,
            hint=f"write it with mrl-jax cascade --config {args.config}",
        )
    config = override(config, args.assignments)
    task, workdir = tasks[type(config)], args.workdir or Path("runs") / config.name
    if args.dry_run:
        simulate_devices(config.train)
        dry_run(task, config, workdir)
        return 0
    return 0 if run(task, config, workdir).finished else 143
