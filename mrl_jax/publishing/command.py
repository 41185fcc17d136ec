"""Upload a trained model to the Hugging Face hub, with a card made from its records.

mrl-jax push runs/mine user/model
mrl-jax push runs/mine user/model --dry-run OUT     write what would be uploaded, and list it

The repository holds the head as safetensors and the towers, so that `Embedder.load("user/model")`
takes nothing else. An upload is one commit. Reports of `mrl-jax eval` in the model's folder become
the card's results.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.checkpoints.models import MODEL_FILE
from mrl_jax.core.addresses import shown
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart, staged_folder, write_text
from mrl_jax.core.hub import HubName, hub_name
from mrl_jax.core.paths import output_path, user_path
from mrl_jax.publishing.card import make_card
from mrl_jax.publishing.provenance import Provenance, read_provenance
from mrl_jax.publishing.repository import Repository, open_repository
from mrl_jax.publishing.upload import CARD, upload_repository


def main(argv: Sequence[str], *, prog: str = "mrl-jax push") -> int:
    args = _parser(prog).parse_args(argv)
    name = _name(args.name, args.revision)
    for option, text in (("--revision", args.revision), ("--message", args.message)):
        if text is not None and not text.strip():
            raise MrlError("is empty", where=option, hint="leave it out for the default")
    with open_repository(args.model, with_towers=not args.without_towers) as repository:
        known = read_provenance(
            repository.folder, repository.info, repository.towers, reports=args.report
        )
        if args.without_towers:
            _check_published(known, args.model)
        card = make_card(
            name,
            repository.info,
            known,
            with_towers=repository.with_towers,
            licence=args.license,
            languages=args.language,
        )
        _print_notes(repository, known, args)
        if args.dry_run is not None:
            _write(args.dry_run, repository, str(card))
            return 0
        commit = upload_repository(
            name, repository.files, str(card), private=args.private, message=args.message
        )
    print(f"{name}: uploaded, commit {commit}")
    pinned = HubName(name.hub_id, commit)
    if args.without_towers:
        print("it is loaded from a folder where its towers are put beside it, as its card says")
    else:
        print(f'load it: mrl_jax.Embedder.load("{name}"), or for ever the same "{pinned}"')
    return 0


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument("model", type=user_path, metavar="DIR", help="folder of a trained model")
    parser.add_argument("name", metavar="OWNER/NAME", help="of the repository on the hub")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--revision", metavar="BRANCH", help="to commit to; default: main")
    message = f"Upload a model of {prog.partition(' ')[0]}"
    parser.add_argument("--message", default=message, help=f"of the commit; default: {message}")
    parser.add_argument("--license", metavar="ID", help="for the card: apache-2.0, cc-by-4.0, ...")
    text = "code for the card; can be given again (those of FLEURS' sets are added)"
    parser.add_argument("--language", action="append", default=[], metavar="CODE", help=text)
    text = "of `mrl-jax eval`, outside of DIR; can be given again"
    parser.add_argument(
        "--report", type=user_path, action="append", default=[], metavar="FOLDER", help=text
    )
    text = "leave the towers out, where both were converted from the hub; the card says from which"
    parser.add_argument("--without-towers", action="store_true", help=text)
    text = "upload nothing: write the folder, and list its files"
    parser.add_argument("--dry-run", type=output_path, metavar="OUT", help=text)
    return parser


def _name(text: str, branch: str | None) -> HubName:
    name = hub_name(text)
    if name is None:
        problem = f"{text!r} is no name of a repository"
        raise MrlError(problem, where="OWNER/NAME", hint="write it as owner/name")
    if name.revision is not None:
        hint = f"pass --revision {name.revision}"
        raise MrlError(f"{text!r} names a revision", where="OWNER/NAME", hint=hint)
    return HubName(name.hub_id, branch)


def _check_published(known: Provenance, model: Path) -> None:
    """Refuse to leave out towers that nobody could make again."""
    for side, tower in known.towers.items():
        if not tower.is_published:
            problem = f"its {side} tower was not converted from a checkpoint of the hub alone"
            raise MrlError(problem, where=model, hint="push it with its towers")


def _print_notes(repository: Repository, known: Provenance, args: argparse.Namespace) -> None:
    notes = []
    if repository.left_out:
        notes.append(f"left out: {', '.join(repository.left_out)}")
    if known.other_evaluations:
        names = ", ".join(known.other_evaluations)
        notes.append(f"not in the card, as they are about another model: {names}")
    if not known.evaluations:
        notes.append("no results in the card: there is no report of `mrl-jax eval` on this model")
    if args.license is None:
        notes.append("no licence in the card: pass --license ID")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _write(out: Path, repository: Repository, card: str) -> None:
    """The folder that would be uploaded, and a line a file."""
    check_apart(repository.folder, out)
    if out.is_dir() and any(out.iterdir()):
        problem = "the output exists already"
        raise MrlError(problem, where=out, hint="choose another folder, or remove this one")
    total = sum(path.stat().st_size for path in repository.files.values())
    with staged_folder(out, marker=MODEL_FILE, needs_bytes=total) as staging:
        for name, path in repository.files.items():
            place = staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        write_text(staging / CARD, card)
    sizes = {path: (out / path).stat().st_size for path in (CARD, *repository.files)}
    for path, size in sizes.items():
        print(f"{size:>15,}  {path}")
    print(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files: {shown(out)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
