"""`mrl-jax build`: make the data set that training reads."""

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from mrl_jax.core.addresses import shown
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import output_path, user_path
from mrl_jax.data.build.builder import BuildOptions, BuildReport, build_dataset
from mrl_jax.data.sets.parquet import ParquetColumns

_SHOWN = 10


def build_parser(prog: str) -> argparse.ArgumentParser:
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument("source", type=user_path, help="manifest, or Parquet file or folder")
    parser.add_argument("out", type=output_path, help="data set folder to make")
    for name, value in _defaults().items():
        option, shown = f"--{name.replace('_', '-')}", "default: %(default)s"
        if name == "long":
            shown = f"leave longer recordings out, or keep their beginning; {shown}"
            parser.add_argument(option, choices=("skip", "cut"), default=value, help=shown)
        else:
            parser.add_argument(option, type=type(value), default=value, help=shown)
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="the column of a Parquet table that is the audio, text, id, ...; may be repeated",
    )
    parser.add_argument("--workers", type=int, help="threads that decode; default: one a core")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it has changed")
    return parser


def main(argv: Sequence[str], *, prog: str = "mrl-jax build") -> int:
    args = build_parser(prog).parse_args(argv)
    if args.workers is not None and args.workers < 1:
        raise MrlError(f"{args.workers}, expected 1 or more", where="--workers")
    limits = {name: getattr(args, name) for name in _defaults()}
    options = BuildOptions(**limits, columns=parse_columns(args.column))
    report = build_dataset(
        args.source, args.out, options=options, overwrite=args.overwrite, workers=args.workers
    )
    print(summary(report))
    for skipped in report.skipped[:_SHOWN]:
        print(f"  left out, {skipped.kind}: {skipped.audio} ({skipped.id}): {skipped.reason}")
    if len(report.skipped) > _SHOWN:
        print(f"  and {len(report.skipped) - _SHOWN} more, in {shown(report.out)}/build.json")
    return 0


def _defaults() -> dict[str, Any]:
    return {name: value for name, value in vars(BuildOptions()).items() if name != "columns"}


def parse_columns(texts: Sequence[str]) -> ParquetColumns:
    """`FIELD=NAME` texts as `ParquetColumns`; an empty name uses no column."""
    known = [field.name for field in fields(ParquetColumns)]
    names: dict[str, str | None] = {}
    for text in texts:
        name, equals, column = text.partition("=")
        if name not in known or not equals or (name in ("audio", "text") and not column):
            hint = f"the fields are {', '.join(known)}"
            raise MrlError(f"{text!r}, expected FIELD=NAME", where="--column", hint=hint)
        names[name] = column or None
    return ParquetColumns(**names)  # pyright: ignore[reportArgumentType]


def summary(report: BuildReport) -> str:
    """One line: what there is in each split, and how much was left out."""
    splits = ", ".join(
        f"{split} {count} clips of {report.seconds[split] / 3600:.2f} h"
        for split, count in report.examples.items()
    )
    kinds = Counter(skipped.kind for skipped in report.skipped)
    left_out = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing"
    state = "unchanged, kept" if report.reused else "built"
    return f"{shown(report.out)}: {state}: {splits}; left out: {left_out}"


if __name__ == "__main__":
    sys.exit(run_command(functools.partial(main, prog="python -m mrl_jax.data.build")))
