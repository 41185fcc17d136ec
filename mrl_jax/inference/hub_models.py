"""Trained models by name: a local folder, an address, or a model on the Hugging Face hub."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from mrl_jax.checkpoints.models import MODEL_FILE, read_model_info
from mrl_jax.checkpoints.towers import TOWER_FILE, read_info
from mrl_jax.core.addresses import scheme_of
from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.hub import HubName, fetch_snapshot, hub_name
from mrl_jax.core.paths import user_path
from mrl_jax.core.records import read_object, readable_as
from mrl_jax.inference.search.config import SEARCH_CONFIG_FILE
from mrl_jax.inference.search.rotation import ROTATION_FILE

COMPANIONS = (SEARCH_CONFIG_FILE, ROTATION_FILE)
"""Files of a model that need not be there."""
UPLOAD_AGAIN = "upload the model again, by `mrl-jax push`"
_DIRECTIONS = re.compile(r"search-[0-9a-f]{8}\.npy")
_ENDINGS = (".json", ".txt", ".model", ".jinja", ".md", ".safetensors", ".npy", ".ocdbt")
"""Of the files that are fetched; none of them holds code or a pickle."""
_ARRAYS = re.compile(r"(head-[\w-]+|weights/(encoder|lm_head|unused_tensors))/([\w.-]+/)*[\w-]+")
"""Orbax's files, most of which have no ending."""


@checked
def model_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of a model, fetched first where its name is one of the hub.

    Args:
        name: a folder, an address, or, where there is no folder of that name, "owner/name" or
            "owner/name@revision" on the hub; a `Path` is always a folder.
        revision: branch, tag or commit on the hub, instead of @revision.

    Raises:
        MrlError: the hub does not have it or cannot be reached; what it has is no model of this
            library, or names files that are not fetched; a revision of a folder, or two.
    """
    text = str(name)
    is_path = isinstance(name, Path) or scheme_of(text) is not None
    named = None if is_path or user_path(text).exists() else hub_name(text)
    if named is None:
        if revision is not None:
            problem = f"is a folder, which has no revision {revision!r}"
            raise MrlError(problem, where=name, hint="leave the revision out")
        return user_path(name)
    if revision is not None:
        if named.revision is not None:
            problem = f"names a revision, and another is given, {revision!r}"
            raise MrlError(problem, where=name, hint="give one of them")
        named = HubName(named.hub_id, revision)
    return _fetched_model(named)


@checked
def is_model_file(name: str) -> bool:
    """Whether a file that a description names is of a kind that is fetched from the hub."""
    is_read = name.endswith(_ENDINGS) or _ARRAYS.fullmatch(name) is not None
    return is_read and not name.startswith("/") and ".." not in name.split("/") and "\\" not in name


def _fetched_model(name: HubName) -> Path:
    """The snapshot of a model, with the files that its descriptions name and no others."""
    folder = fetch_snapshot(name, [MODEL_FILE])
    if not (folder / MODEL_FILE).is_file():
        problem = f"is no model of this library: it has no {MODEL_FILE}"
        raise MrlError(problem, where=name, hint="pass one that `mrl-jax push` uploaded")
    info = read_model_info(folder)
    towers = {
        what: _inside(one.path, name)
        for what, one in (("speech", info.speech), ("text", info.text))
    }
    commit = HubName(name.hub_id, folder.name)  # One commit, wherever the branch goes meanwhile.
    described = [f"{tower}/{TOWER_FILE}" for tower in towers.values()]
    fetch_snapshot(commit, described)
    for what, tower in towers.items():
        if not (folder / tower / TOWER_FILE).is_file():
            hint = "its page says how to put the towers beside it"
            raise MrlError(f"was uploaded without its {what} tower", where=name, hint=hint)
    files = [MODEL_FILE, *described, *_checked_names(info.files, name, MODEL_FILE)]
    for tower in towers.values():
        names = _checked_names(read_info(folder / tower).files, name, f"{tower}/{TOWER_FILE}")
        files += [f"{tower}/{file}" for file in names]
    if not any(file.partition("/")[0] == info.head for file in info.files):
        problem = f"its {MODEL_FILE} has no digests of the head's files"
        raise MrlError(problem, where=name, hint=UPLOAD_AGAIN)
    fetch_snapshot(commit, [*files, *COMPANIONS])
    if directions := _directions(folder):
        fetch_snapshot(commit, [directions])
    missing = next((file for file in files if not (folder / file).is_file()), None)
    if missing is not None:
        problem = f"has no {missing}, which its descriptions name"
        raise MrlError(problem, where=name, hint=UPLOAD_AGAIN)
    return folder


def _inside(path: str, name: HubName) -> str:
    """A tower's folder relative to the model's, which it must lie in."""
    parts = PurePosixPath(path).parts
    if scheme_of(path) or path.startswith("/") or ".." in parts or not parts:
        problem = f"its {MODEL_FILE} names a tower outside of the model's folder ({path})"
        raise MrlError(problem, where=name, hint=UPLOAD_AGAIN)
    return "/".join(parts)


def _checked_names(files: Mapping[str, str], name: HubName, named_by: str) -> Iterator[str]:
    """Names of files that a description from the hub gives.

    Raises:
        MrlError: one lies elsewhere, or is of a kind that no model has.
    """
    for file in files:
        if not is_model_file(file):
            problem = f"its {named_by} names {file!r}, which is no file of a model"
            raise MrlError(problem, where=name, hint="code and pickles are never fetched")
        yield file


def _directions(folder: Path) -> str | None:
    """The file of the directions that the search config of a snapshot projects on."""
    path = folder / SEARCH_CONFIG_FILE
    if not path.is_file():
        return None
    with readable_as("a search config", path, hint=UPLOAD_AGAIN):
        digest = str(read_object(path).get("directions") or "")
    file = f"search-{digest[:8]}.npy"
    return file if _DIRECTIONS.fullmatch(file) else None
