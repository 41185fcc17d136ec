"""Make an index of documents that `mrl-jax search` searches, and change it.

An index is a folder. It is written whole or not at all: what is killed leaves the old one.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrl_jax.core.addresses import shown
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import output_path, user_path
from mrl_jax.inference.model_option import MODEL_HELP, MOVED_HELP, model_option

if TYPE_CHECKING:
    from mrl_jax.data.sets.issues import IssueLog


def main(argv: Sequence[str], *, prog: str = "mrl-jax index") -> int:
    parser = CommandParser(prog=prog, description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _build_options(actions)
    _change_options(actions)
    args = parser.parse_args(argv)
    from mrl_jax.core.compilation_cache import keep_compiled

    keep_compiled()
    {"build": _build, "add": _add, "remove": _remove}[args.action](args)
    return 0


def _build_options(actions: "argparse._SubParsersAction[CommandParser]") -> None:
    from mrl_jax.inference.index.backends import BACKENDS, EXACT
    from mrl_jax.inference.index.description import PRECISIONS, IndexConfig

    default = IndexConfig()
    text = "Embed documents, and write them with their vectors."
    build = actions.add_parser("build", help=text, description=text)
    build.add_argument("--model", type=model_option, required=True, help=MODEL_HELP)
    _corpus_option(build)
    build.add_argument("--out", type=output_path, required=True, help="folder of the index")
    build.add_argument("--dim", type=int, help="coordinates to store; default: the model's width")
    build.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=default.precision,
        help=f"of what is stored; default: {default.precision}",
    )
    build.add_argument(
        "--rotation", action="store_true", help="apply the rotation of `mrl-jax rotate`"
    )
    build.add_argument(
        "--prefix", type=int, help="coordinates that a short list is made by; default: none is made"
    )
    build.add_argument(
        "--shortlist",
        type=int,
        default=default.shortlist,
        help=f"documents that are scored again in full; default: {default.shortlist}",
    )
    build.add_argument(
        "--backend",
        choices=(EXACT, *BACKENDS),
        default=default.backend,
        help="what makes the short list; default: exact search, of all documents",
    )
    build.add_argument("--overwrite", action="store_true", help="replace an index that is there")


def _change_options(actions: "argparse._SubParsersAction[CommandParser]") -> None:
    text = "Embed more documents, and add them to an index."
    add = actions.add_parser("add", help=text, description=text)
    add.add_argument("index", type=user_path, metavar="INDEX", help="folder of an index")
    _corpus_option(add)
    add.add_argument("--model", type=model_option, help=MOVED_HELP)
    text = "Remove documents from an index."
    remove = actions.add_parser("remove", help=text, description=text)
    remove.add_argument("index", type=user_path, metavar="INDEX", help="folder of an index")
    remove.add_argument("ids", nargs="*", metavar="ID", help="of a document")
    remove.add_argument("--ids-from", type=user_path, help="a file with an id a line")


def _corpus_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus",
        type=user_path,
        required=True,
        help="table (.jsonl, .parquet, .tsv, .csv), text file (.txt, .md), retrieval set, or "
        "folder of Parquet or text files",
    )


def _build(args: argparse.Namespace) -> None:
    from mrl_jax.core.files import check_apart, staged_folder
    from mrl_jax.data.sets.corpus import read_corpus
    from mrl_jax.data.sets.issues import IssueLog
    from mrl_jax.inference.embedder import Embedder
    from mrl_jax.inference.index.description import INDEX_FILE, IndexConfig
    from mrl_jax.inference.index.search_index import SearchIndex

    names = ("dim", "precision", "prefix", "shortlist", "backend")
    options = {name: getattr(args, name) for name in names}
    IndexConfig(**options).check_installed()
    for source in (args.corpus, args.model):
        check_apart(source, args.out)
    with staged_folder(args.out, marker=INDEX_FILE, overwrite=args.overwrite) as staging:
        embedder = Embedder.load(args.model, rotation=args.rotation)
        log = IssueLog()
        documents = read_corpus(args.corpus, log=log)
        index = SearchIndex.build(embedder, documents, progress=sys.stderr.isatty(), **options)
        index.write(staging, final=args.out)
    _report(log)
    print(f"{shown(args.out)}: {len(index)} documents of {index.dim} coordinates")


def _add(args: argparse.Namespace) -> None:
    from mrl_jax.data.sets.corpus import read_corpus
    from mrl_jax.data.sets.issues import IssueLog
    from mrl_jax.inference.index.description import read_info
    from mrl_jax.inference.index.open_index import open_index

    read_info(args.index, verify=False)  # Before a model is loaded.
    index, log = open_index(args.index, args.model), IssueLog()
    before = len(index)
    index.add(read_corpus(args.corpus, log=log), progress=sys.stderr.isatty())
    index.save()
    _report(log)
    print(f"{shown(args.index)}: {len(index) - before} documents added, {len(index)} in all")


def _remove(args: argparse.Namespace) -> None:
    from mrl_jax.core.files import open_regular
    from mrl_jax.inference.index.search_index import SearchIndex

    ids = list(args.ids)
    if args.ids_from is not None:
        with open_regular(args.ids_from, where=args.ids_from) as file:
            try:
                lines = file.read().decode("utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                hint = "save it as UTF-8"
                raise MrlError("is not UTF-8", where=args.ids_from, hint=hint) from error
        ids += [line.strip() for line in lines if line.strip()]
    if not ids:
        raise MrlError("no document is named", where="mrl-jax index remove", hint="pass its id")
    index = SearchIndex.load(args.index)
    index.remove(ids)
    index.save()
    print(f"{shown(args.index)}: {len(ids)} documents removed, {len(index)} left")


def _report(log: "IssueLog") -> None:
    for issue in log.issues:
        print(issue, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
