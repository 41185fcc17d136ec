"""`mrl-jax convert` and `python -m converters`: convert, verify and export towers."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.cli import CommandParser, run_command, unwind_on_sigterm
from mrl_jax.core.errors import MrlError

from . import FAMILIES
from .checkpoints import DTYPES


def build_parser(prog: str) -> argparse.ArgumentParser:
    parser = CommandParser(prog=prog, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    oolel = {"oolel-embed": "Convert the Oolel-Embed speech model: both towers and head."}
    for name, text in {**FAMILIES, **oolel}.items():
        command = add(name, text)
        command.add_argument("source", help="checkpoint folder, or hub id")
        made = "model" if name in oolel else "tower"
        command.add_argument("out", type=Path, help=f"{made} folder to make")
        command.add_argument("--dtype", choices=tuple(DTYPES), help="default: the checkpoint's own")
        command.add_argument("--revision", help="branch, tag or commit on the hub")
        command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    command = add("verify", "Hold a tower against PyTorch, layer by layer.")
    command.add_argument("tower", type=Path, metavar="OUT", help="tower folder")
    command.add_argument("source", help="the checkpoint it came from: folder, or hub id")
    command.add_argument("--revision", help="branch, tag or commit on the hub")
    command.add_argument("--tolerance", type=float, default=1e-5, help="default: %(default)s")
    command.add_argument(
        "--audio", type=Path, nargs="+", default=[], help="recordings to run a speech tower on"
    )

    command = add("export", "Write a tower back as a Hugging Face checkpoint folder.")
    command.add_argument("model", type=Path, help="tower folder")
    command.add_argument("out", type=Path, help="checkpoint folder to make")
    command.add_argument(
        "--max-shard-gb", type=float, default=2.0, help="split larger weights; default: %(default)s"
    )
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    command = add("random-init", "Make a checkpoint of random weights, to try things out offline.")
    command.add_argument("family", choices=tuple(FAMILIES))
    command.add_argument("config", type=Path, help="a Hugging Face config.json")
    command.add_argument("out", type=Path, help="checkpoint folder to make")
    command.add_argument(
        "--dtype", choices=tuple(DTYPES), default="float32", help="default: %(default)s"
    )
    command.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def main(argv: Sequence[str], *, prog: str = "mrl-jax convert") -> int:
    """Run one command line of the converters.

    Args:
        argv: its arguments.
        prog: what usage and errors call the program.
    """
    args = build_parser(prog).parse_args(argv)
    unwind_on_sigterm()
    if args.command in FAMILIES:
        return _convert(args)
    run = {
        "oolel-embed": _convert_model,
        "verify": _verify,
        "export": _export,
        "random-init": _random_init,
    }
    return run[args.command](args)


def _convert(args: argparse.Namespace) -> int:
    from mrl_jax.models.towers import TOWERS

    from .convert import convert

    report = convert(args.source, args.out, family=args.command, **_options(args))
    print(
        f"{args.out}: {report['kind']}, {report['parameters'] / 1e6:.1f} M parameters in "
        f"{report['dtype']}, {report['tensors']} tensors matched one to one with "
        f"{report['leaves']} leaves"
    )
    if report["kind"] == "hubert_ctc" and "vocab.json" not in report["files"]:
        print("note: the checkpoint has no vocab.json, so this recogniser gives no text")
    if TOWERS[report["kind"]].modality == "speech" and not {
        "preprocessor_config.json",
        "processor_config.json",
    } & set(report["files"]):
        print("note: the checkpoint says nothing of its audio: clips are normalised, at 16 kHz")
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What every conversion takes."""
    return {name: getattr(args, name) for name in ("dtype", "revision", "overwrite")}


def _convert_model(args: argparse.Namespace) -> int:
    from .oolel_embed import convert_oolel_embed

    report = convert_oolel_embed(args.source, args.out, **_options(args))
    speech, text = report["towers"]["speech"], report["towers"]["text"]
    print(
        f"{args.out}: {report['kind']}, {speech['kind']} of {speech['parameters'] / 1e6:.1f} M "
        f"parameters in {speech['dtype']}, {text['kind']} of {text['parameters'] / 1e6:.1f} M in "
        f"{text['dtype']}, head of {report['head_parameters'] / 1e6:.1f} M; "
        f"all {report['tensors']} tensors have their place"
    )
    if "tokenizer.json" not in text["files"]:
        print(f"note: there is no tokenizer.json; put it into {args.out / 'text'} to embed text")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from .verify import verify

    if not args.tolerance > 0:
        raise MrlError(f"--tolerance is {args.tolerance}, expected a positive number")
    certificate = verify(
        args.tower,
        args.source,
        audio=args.audio,
        revision=args.revision,
        tolerance=args.tolerance,
    )
    print(f"{args.tower} against PyTorch, relative error on {certificate.inputs}")
    for name, error in certificate.errors.items():
        print(f"  {name:<10} {error:.2e}{'' if error <= certificate.tolerance else '  too large'}")
    if certificate.holds:
        print(f"the same model: every state within {certificate.tolerance:g}")
        return 0
    worst = max(certificate.errors, key=lambda name: _nan_last(certificate.errors[name]))
    print(
        f"error: {args.tower}: not the model of {args.source}: {worst} is off by "
        f"{certificate.errors[worst]:.2e}, expected at most {certificate.tolerance:g}. "
        "Convert the checkpoint again, and check that it is the one meant",
        file=sys.stderr,
    )
    return 1


def _nan_last(error: float) -> float:
    return error if error == error else float("inf")


def _export(args: argparse.Namespace) -> int:
    from .export import export

    if not 0 < args.max_shard_gb < float("inf"):
        raise MrlError(f"--max-shard-gb is {args.max_shard_gb}, expected a positive number")
    made = export(
        args.model,
        args.out,
        shard_bytes=int(args.max_shard_gb * 1e9),
        overwrite=args.overwrite,
    )
    print(
        f"{args.out}: {made['kind']}, {made['tensors']} tensors in {made['dtype']}, "
        f"{len(made['files'])} file{'s' if len(made['files']) > 1 else ''}"
    )
    return 0


def _random_init(args: argparse.Namespace) -> int:
    from .random_init import random_init

    if args.seed < 0:
        raise MrlError(f"--seed is {args.seed}, expected a whole number from 0 on")
    made = random_init(
        args.family,
        args.config,
        args.out,
        dtype=args.dtype,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    print(f"{args.out}: {made['kind']}, {made['tensors']} random tensors in {made['dtype']}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(functools.partial(main, prog="python -m converters")))
