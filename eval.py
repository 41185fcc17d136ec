"""Measure a trained model: `python eval.py retrieval --model DIR --data DIR`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.errors import CommandParser, MrlError, run_command


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python eval.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "nDCG and accuracy of speech (or text) queries at every dimension, from one encoding."
    command = commands.add_parser("retrieval", help=text, description=text, allow_abbrev=False)
    command.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    command.add_argument("--data", type=Path, required=True, help="folder of a retrieval set")
    command.add_argument("--dims", help="comma-separated; default: those trained")
    command.add_argument("--out", type=Path, help="report folder; default: MODEL/eval-DATA")
    args = parser.parse_args(argv)

    from mrl_jax.retrieval_report import report_retrieval

    out = args.out or args.model / f"eval-{args.data.resolve().name}"
    print(report_retrieval(args.model, args.data, out, dims=_dims(args.dims)))
    print(f"report: {out / 'report.md'}")
    return 0


def _dims(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise MrlError(f"--dims is {text!r}, expected numbers as in 256,128") from error


if __name__ == "__main__":
    sys.exit(run_command(main))
