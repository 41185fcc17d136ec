"""`mrl-jax convert` and `python -m converters`: convert, verify and export towers."""

import argparse
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mrl_jax.core.addresses import shown
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import output_path, user_path, user_text

from . import FAMILIES
from .checkpoints import DTYPES

ADAPTER = {
    "metavar": "FOLDER",
    "type": user_text,
    "help": "LoRA adapter (of PEFT) to merge, folder or hub id",
}
REVISION = {"help": "branch, tag or commit on the hub"}
SUBFOLDER = {"help": "folder inside the source to read instead"}
OVERWRITE: dict[str, Any] = {"action": "store_true", "help": "replace OUT if it exists"}


def build_parser(prog: str) -> argparse.ArgumentParser:
    parser = CommandParser(prog=prog, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> Callable[..., Any]:
        """A command that `run` executes; gives its `add_argument`."""
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        return command.add_argument

    oolel = "Convert the Oolel-Embed speech model: both towers and head."
    towers = [(name, text, _convert, "tower") for name, text in FAMILIES.items()]
    for name, text, run, kind in [*towers, ("oolel-embed", oolel, _convert_model, "model")]:
        argument = add(name, text, run)
        if kind == "model":
            folders = "folder or hub id of the whole model, or of its speech half and its text half"
            argument("source", type=user_text, nargs="+", help=folders)
        else:
            argument("source", type=user_text, help="checkpoint folder, or hub id")
        if name == "qwen3":
            argument("--adapter", **ADAPTER)
        argument("out", type=output_path, help=f"{kind} folder to make")
        argument("--dtype", choices=tuple(DTYPES), help="default: the checkpoint's own")
        if name == "speech":
            adapter = "whose adapter to take, of a checkpoint that has several (MMS), such as wol"
            argument("--language", metavar="CODE", help=adapter)
        argument("--revision", **REVISION)
        argument("--subfolder", **SUBFOLDER)
        argument("--overwrite", **OVERWRITE)

    argument = add("verify", "Compare a tower with PyTorch, layer by layer.", _verify)
    argument("tower", type=user_path, metavar="OUT", help="tower folder")
    argument("source", type=user_text, help="the checkpoint it came from: folder, or hub id")
    argument("--revision", **REVISION)
    argument("--subfolder", **SUBFOLDER)
    argument("--adapter", type=user_text, metavar="FOLDER", help="the LoRA adapter that was merged")
    argument("--tolerance", type=float, default=1e-5, help="default: %(default)s")
    argument(
        "--audio", type=user_path, nargs="+", default=[], help="recordings to run a speech tower on"
    )

    text = "Write a tower, a model or a LoRA adapter as folders of Hugging Face's libraries."
    argument = add("export", text, _export)
    argument("model", type=user_path, help="tower folder, model folder, or a run's adapter folder")
    argument("out", type=output_path, help="checkpoint folder to make")
    split = "split larger weights; default: %(default)s"
    argument("--max-shard-gb", type=float, default=2.0, help=split)
    argument("--overwrite", **OVERWRITE)

    text = "Make a checkpoint of random weights, to try things out offline."
    argument = add("random-init", text, _random_init)
    argument("family", choices=tuple(FAMILIES))
    argument("config", type=user_path, help="a Hugging Face config.json")
    argument("out", type=output_path, help="checkpoint folder to make")
    argument("--dtype", choices=tuple(DTYPES), default="float32", help="default: %(default)s")
    argument("--seed", type=int, default=0, help="default: %(default)s")
    argument("--overwrite", **OVERWRITE)
    return parser


def main(argv: Sequence[str], *, prog: str = "mrl-jax convert") -> int:
    """Run one command line of the converters; `prog` is what usage and errors call the program."""
    args = build_parser(prog).parse_args(argv)
    return args.run(args)


def _convert(args: argparse.Namespace) -> int:
    from mrl_jax.models.towers import TOWERS

    from .convert import convert

    adapter, language = getattr(args, "adapter", None), getattr(args, "language", None)
    options = {**_options(args), "adapter": adapter, "language": language}
    report = convert(args.source, args.out, family=args.command, **options)
    print(
        f"{shown(args.out)}: {report['kind']}, {report['parameters'] / 1e6:.1f} M parameters in "
        f"{report['dtype']}, {report['tensors']} tensors matched one to one with "
        f"{report['leaves']} leaves"
    )
    for note in report["notes"]:
        print(f"note: {note}")
    kind = TOWERS[report["kind"]]
    if kind.abstract_recogniser and "vocab.json" not in report["files"]:
        print("note: the checkpoint has no vocab.json, so this recogniser gives no text")
    if kind.modality == "speech":
        _print_assumed_audio(report)
    return 0


def _print_assumed_audio(report: Mapping[str, Any]) -> None:
    """What is assumed where a speech checkpoint has no feature extractor."""
    if not {"preprocessor_config.json", "processor_config.json"} & set(report["files"]):
        print("note: the checkpoint says nothing of its audio: clips are normalised, at 16 kHz")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What every conversion takes."""
    return {name: getattr(args, name) for name in ("dtype", "revision", "subfolder", "overwrite")}


def _convert_model(args: argparse.Namespace) -> int:
    from .oolel_embed import convert_oolel_embed

    report = convert_oolel_embed(args.source, args.out, **_options(args))
    speech, text = report["towers"]["speech"], report["towers"]["text"]
    print(
        f"{shown(args.out)}: {report['kind']}, {speech['kind']} of "
        f"{speech['parameters'] / 1e6:.1f} M parameters in {speech['dtype']}, "
        f"{text['kind']} of {text['parameters'] / 1e6:.1f} M in {text['dtype']}, "
        f"head of {report['head_parameters'] / 1e6:.1f} M; "
        f"all {report['tensors']} tensors have their place"
    )
    for name, tower in report["towers"].items():
        for note in tower["notes"]:
            print(f"note: {name} tower: {note}")
    for note in report["notes"]:
        print(f"note: head: {note}")
    _print_assumed_audio(speech)
    if "tokenizer.json" not in text["files"]:
        text_tower = shown(args.out / "text")
        print(f"note: there is no tokenizer.json; put it into {text_tower} to embed text")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from .verify import verify

    if not args.tolerance > 0:
        raise MrlError(f"--tolerance is {args.tolerance}, expected a positive number")
    names = ("audio", "revision", "subfolder", "adapter", "tolerance")
    options = {name: getattr(args, name) for name in names}
    certificate = verify(args.tower, args.source, **options)
    errors, tolerance = certificate.errors, certificate.tolerance
    print(f"{args.tower} against PyTorch, relative error on {certificate.inputs}")
    for name, error in errors.items():
        print(f"  {name:<14} {error:.2e}{'' if error <= tolerance else '  too large'}")
    for name, count in certificate.counts.items():
        print(f"  {name}: {count.of - count.differ} of {count.of} equal")
    for what in certificate.not_covered:
        print(f"  not covered: {what}")
    if certificate.holds:
        print(f"the same model: every state within {tolerance:g}")
        return 0
    print(
        f"error: {args.tower}: not the model of {args.source}: {certificate.failure}. "
        "Convert the checkpoint again, and check that it is the one meant",
        file=sys.stderr,
    )
    return 1


def _export(args: argparse.Namespace) -> int:
    from .export import export
    from .lora_export import export_adapter, is_adapter
    from .oolel_export import export_oolel_embed, is_model

    if not 0 < args.max_shard_gb < math.inf:
        raise MrlError(f"--max-shard-gb is {args.max_shard_gb}, expected a positive number")
    shard_bytes = int(args.max_shard_gb * 1e9)
    if is_adapter(args.model):
        summary = export_adapter(args.model, args.out, overwrite=args.overwrite)
    else:
        write = export_oolel_embed if is_model(args.model) else export
        summary = write(args.model, args.out, shard_bytes=shard_bytes, overwrite=args.overwrite)
    files = f"{len(summary['files'])} file{'s' if len(summary['files']) > 1 else ''}"
    print(
        f"{shown(args.out)}: {summary['kind']}, {summary['tensors']} tensors in "
        f"{summary['dtype']}, {files}"
    )
    if summary["note"]:
        print(f"note: {summary['note']}")
    return 0


def _random_init(args: argparse.Namespace) -> int:
    from .random_init import random_init

    if args.seed < 0:
        raise MrlError(f"--seed is {args.seed}, expected a whole number from 0 on")
    options = {name: getattr(args, name) for name in ("dtype", "seed", "overwrite")}
    summary = random_init(args.family, args.config, args.out, **options)
    print(
        f"{shown(args.out)}: {summary['kind']}, {summary['tensors']} random tensors in "
        f"{summary['dtype']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(functools.partial(main, prog="python -m converters")))
