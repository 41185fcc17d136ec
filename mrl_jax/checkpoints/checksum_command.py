"""Compare all files of a tower, model, data set, cache or checkpoint with their digests.

The states of a speech cache are left out: each clip of them has a digest, which a run compares when
it first reads the clip.

With --update the digests are written anew: for a folder that was edited on purpose, or that is from
before there were digests. A tower whose weights or sizes changed is then another tower, which
models that were trained with it refuse.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mrl_jax.checkpoints import models, towers, train_state
from mrl_jax.checkpoints.adapters import ADAPTER_FILE
from mrl_jax.core.addresses import shown
from mrl_jax.core.checksums import folder_digests, verify_files
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.hub import refuse_snapshot
from mrl_jax.core.paths import user_path
from mrl_jax.core.records import read_object, readable_as, write_description
from mrl_jax.core.remote import upload
from mrl_jax.data.build import info as build
from mrl_jax.data.cache import files as cache

OTHERS = ("cascade.json", "search.json", "index.json", ADAPTER_FILE)
"""Descriptions with a digest of themselves, and perhaps `files`, those of all other files of the
folder: no more is checked."""
WRITE_AGAIN = "write it again"


def main(argv: Sequence[str], *, prog: str = "mrl-jax checksum") -> int:
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument("folders", type=user_path, nargs="+", metavar="FOLDER")
    parser.add_argument("--update", action="store_true", help="write the digests of what is there")
    args = parser.parse_args(argv)
    for folder in args.folders:
        if args.update:
            refuse_snapshot(folder, by="--update")
        for name, (verify, update) in _described(folder).items():
            (update if args.update else verify)(folder)
            upload(folder / name)
            print(f"{shown(folder / name)}: {'digests written' if args.update else 'as written'}")
    return 0


Action = Callable[[Path], object]


def _described(folder: Path) -> dict[str, tuple[Action, Action]]:
    """What a folder's descriptions are verified and updated by, by their names.

    Raises:
        MrlError: there is none.
    """
    known: dict[str, tuple[Action, Action]] = {
        towers.TOWER_FILE: (_verify_tower, update_tower),
        models.MODEL_FILE: (_verify_model, _update_model),
        build.BUILD_FILE: (_verify_build, _update_build),
        cache.CACHE_FILE: (_verify_cache, _update_cache),
        **{name: (_verify_by(name), _write_again(name)) for name in OTHERS},
    }
    found = {name: actions for name, actions in known.items() if (folder / name).is_file()}
    if (folder / train_state.STATE).is_dir():
        actions = (train_state.verify_step, train_state.describe_step)
        found[train_state.FILES_FILE] = actions
    if not found:
        names = ", ".join(known)
        problem = f"holds nothing that has digests: none of {names}, and no checkpoint of a run"
        raise MrlError(problem, where=folder, hint="pass the folder of one of these")
    return found


def _verify_tower(folder: Path) -> None:
    info = towers.read_info(folder)
    towers.verify_tower(folder, info)
    towers.read_checked_weights(folder, info)


def update_tower(folder: Path) -> towers.TowerInfo:
    """Write tower.json anew, for the sizes in it and the files beside it.

    Raises:
        MrlError: no tower; sizes that are not those of the weights.
    """
    info = towers.read_info(folder, sealed=False)
    towers.check_sizes(folder, info)
    digest = towers.weights_digest(towers.read_stored_weights(folder, info))
    fields = {**vars(info), "weights_digest": digest}
    del fields["digest"], fields["files"]
    return towers.describe_tower(folder, **fields)


def _verify_model(folder: Path) -> None:
    models.verify_head(folder, models.read_model_info(folder))


def _update_model(folder: Path) -> None:
    info = models.read_model_info(folder, sealed=False)
    models.describe_model(folder, info)


def _verify_build(folder: Path) -> None:
    files = build.read_build(folder).files
    verify_files(folder, files, named_by=build.BUILD_FILE, hint=build.REBUILD)


def _update_build(folder: Path) -> None:
    info = build.read_build(folder, sealed=False)
    build.describe_build(folder, info)


def _verify_cache(folder: Path) -> None:
    info = cache.read_cache_of(folder, {}, hint=cache.REMOVE)
    assert info is not None
    cache.verify_cache(folder, info, hint=cache.REMOVE)
    for name in info.files:
        if name.endswith(f"/{cache.CACHE_FILE}"):  # A shard, which names files of its own.
            _verify_cache((folder / name).parent)


def _update_cache(folder: Path) -> None:
    raise MrlError(
        "is a cache, which is made anew rather than edited",
        where=folder,
        hint=cache.REMOVE,
    )


def _verify_by(name: str) -> Action:
    def verify(folder: Path) -> None:
        with readable_as("a description", folder / name, hint=WRITE_AGAIN):
            fields = read_object(folder / name, version=1)
            files = dict(fields["files"]) if "files" in fields else None
        if files is not None:
            verify_files(folder, files, named_by=name, hint=WRITE_AGAIN)

    return verify


def _write_again(name: str) -> Action:
    def write(folder: Path) -> None:
        with readable_as("a description", folder / name, hint=WRITE_AGAIN):
            fields = read_object(folder / name, version=1, sealed=False)
        if "files" in fields:
            fields["files"] = folder_digests(folder, lambda other: other != name)
        write_description(folder / name, fields, version=1)

    return write


if __name__ == "__main__":
    sys.exit(run_command(main))
