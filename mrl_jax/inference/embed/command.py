"""Embed a whole corpus, texts or recordings, with a trained model, into files of vectors.

INPUT is a table (.jsonl, .parquet, .tsv, .csv) with a column `text` or `audio`, a folder of
recordings or of text files, or a retrieval set, whose corpus is embedded. OUT is a folder of
shards: Parquet with the columns `id` and `vector`, or .npy with the ids beside it. The same command
again goes on where a killed one stopped. Recordings that cannot be embedded are named in OUT.
"""

import re
import sys
from collections.abc import Sequence

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import local_path, user_path
from mrl_jax.inference.model_option import MODEL_HELP, model_option


def main(argv: Sequence[str], *, prog: str = "mrl-jax embed") -> int:
    args = _parser(prog).parse_args(argv)
    from mrl_jax.core.compilation_cache import keep_compiled
    from mrl_jax.inference.embed.inputs import open_inputs
    from mrl_jax.inference.embed.run import EmbedConfig, embed_corpus
    from mrl_jax.inference.embedder import Embedder

    keep_compiled()
    names = ("dim", "task", "prompt", "file_format", "shard_rows")
    options = {name: getattr(args, name) for name in names}
    config = EmbedConfig(**options, part=_part(args.part))
    inputs = open_inputs(args.input, args.modality)
    embedder = Embedder.load(args.model, rotation=args.rotation, batch_size=args.batch_size)
    bar = sys.stderr.isatty()
    result = embed_corpus(
        embedder, inputs, args.out, config, overwrite=args.overwrite, progress=bar
    )
    for issue in inputs.log.issues:
        print(issue, file=sys.stderr)
    if result.skipped:
        where = f"{args.out}/_skipped-*.jsonl says which and why"
        print(f"{result.skipped} recordings could not be embedded: {where}", file=sys.stderr)
    kept = f", {result.kept} shards were there already" if result.kept else ""
    missing = f", {result.missing} shards are left to other parts" if result.missing else ""
    vectors = f"{result.embedded} vectors of {result.info.dim} coordinates written"
    print(f"{args.out}: {vectors}{kept}{missing}")
    return 0


def _parser(prog: str) -> CommandParser:
    from mrl_jax.inference.embed.run import SHARD_ROWS
    from mrl_jax.inference.embed.shards import FORMATS

    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument("model", type=model_option, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("input", type=user_path, metavar="INPUT", help="what to embed")
    parser.add_argument("out", type=local_path("OUT"), metavar="OUT", help="folder of the vectors")
    kinds = "of the input; default: as its files show"
    parser.add_argument("--modality", choices=("text", "speech"), help=kinds)
    parser.add_argument("--dim", type=int, help="coordinates to keep; default: the model's width")
    parser.add_argument("--task", help="of the model, whose prompt is put before each item")
    parser.add_argument("--prompt", help="or the prompt itself, word for word")
    parser.add_argument(
        "--rotation", action="store_true", help="apply the rotation of `mrl-jax rotate`"
    )
    parser.add_argument(
        "--format",
        dest="file_format",
        choices=FORMATS,
        default=FORMATS[0],
        help="of the shards; default: %(default)s",
    )
    rows = f"items of a shard; default: {SHARD_ROWS['text']} texts, {SHARD_ROWS['speech']} clips"
    parser.add_argument("--shard-rows", type=int, help=rows)
    text = "items at once, over all devices; default: %(default)s"
    parser.add_argument("--batch-size", type=int, default=16, help=text)
    text = "embed every Nth shard, from the Ith on: the share of one of N processes or machines"
    parser.add_argument("--part", metavar="I/N", default="1/1", help=text)
    text = "replace vectors of another model, input or option"
    parser.add_argument("--overwrite", action="store_true", help=text)
    return parser


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None:
        hint = "write 1/4 for the first of four parts"
        raise MrlError(f"is {text!r}, expected I/N", where="--part", hint=hint)
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(run_command(main))
