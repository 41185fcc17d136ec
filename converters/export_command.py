"""Export a trained model for programs outside of this library, for speech and text.

--sentence-transformers  a folder that sentence-transformers loads, in PyTorch
--onnx                   programs for onnxruntime
--stablehlo              programs for JAX alone, without this library

Towers are written back as Hugging Face checkpoints by `mrl-jax convert export`.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any

from mrl_jax.core.addresses import shown
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.paths import output_path
from mrl_jax.inference.model_option import MODEL_HELP, model_option

FORMS = {
    "sentence_transformers": "torch transformers sentence_transformers tokenizers",
    "onnx": "torch transformers sentence_transformers tokenizers onnx onnxscript",
    "stablehlo": "tokenizers",
}
"""What each form takes to be made, by import names."""
OF_STABLEHLO = ("seconds", "tokens")


def build_parser(prog: str) -> argparse.ArgumentParser:
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("out", type=output_path, help="folder to make")
    forms = parser.add_mutually_exclusive_group(required=True)
    for form, text in (
        ("sentence-transformers", "a folder for sentence-transformers"),
        ("onnx", "ONNX programs"),
        ("stablehlo", "StableHLO programs"),
    ):
        name = form.replace("-", "_")
        options: dict[str, Any] = {"action": "store_const", "const": name, "dest": "form"}
        forms.add_argument(f"--{form}", **options, help=text)
    dim = "width of the vectors; of a dual encoder with separate dims, which of them; "
    parser.add_argument("--dim", type=int, help=f"{dim}default: the model's width")
    parser.add_argument(
        "--seconds",
        type=float,
        nargs="+",
        help="StableHLO: lengths of clips to make a program for; default: 2 5 10 30",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        help="StableHLO: numbers of tokens to make a program for; default: 64 512",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    return parser


def main(argv: Sequence[str], *, prog: str = "mrl-jax export") -> int:
    args = build_parser(prog).parse_args(argv)
    lengths = {name: value for name in OF_STABLEHLO if (value := getattr(args, name)) is not None}
    if lengths and args.form != "stablehlo":
        problem = f"--{next(iter(lengths))} is of --stablehlo: other forms take any length"
        raise MrlError(problem, where=prog, hint="leave it out")
    flag = f"--{args.form.replace('_', '-')}"
    require(*FORMS[args.form].split(), by=flag, extra="export")
    from .portable_parts import read_portable

    portable = read_portable(model_option(args.model), args.dim)
    match args.form:
        case "sentence_transformers":
            from .sentence_export import export_sentence_transformers as export
        case "onnx":
            from .onnx_export import export_onnx as export
        case _:
            from .stablehlo_export import export_stablehlo

            export = functools.partial(export_stablehlo, **lengths)
    files = export(portable, args.out, overwrite=args.overwrite)
    print(
        f"{shown(args.out)}: {portable.info.kind}, vectors of {portable.dim} coordinates, "
        f"{', '.join(files)}"
    )
    if dims := portable.model.separate_dims:
        others = ", ".join(str(dim) for dim in dims if dim != portable.dim) or "none"
        print(
            f"note: speech has a vector of its own for each dim: do not truncate these; "
            f"the others ({others}) are exported by --dim"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(functools.partial(main, prog="python -m converters.export_command")))
