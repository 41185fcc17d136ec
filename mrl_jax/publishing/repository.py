"""What the repository of a model holds: one folder that is loaded without anything beside it.

model.json, head.safetensors   the description, and the trained arrays
speech/, text/                 the towers, as `mrl-jax convert` wrote them
search.json, search-*.npy, rotation.safetensors   where the model has them
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mrl_jax.checkpoints.head_file import HEAD_FILE, head_bytes, read_head_arrays
from mrl_jax.checkpoints.models import (
    FORMAT,
    MODEL_FILE,
    TRAIN_AGAIN,
    ModelInfo,
    TowerReference,
    describe_model,
    read_model_info,
    read_towers,
    verify_head,
)
from mrl_jax.checkpoints.towers import TOWER_FILE, TowerInfo, verify_tower
from mrl_jax.core.arguments import checked
from mrl_jax.core.checksums import update_hint
from mrl_jax.core.errors import MrlError
from mrl_jax.core.json_text import parse_json
from mrl_jax.core.paths import referenced_path
from mrl_jax.core.records import read_object, write_description
from mrl_jax.inference.hub_models import is_model_file
from mrl_jax.inference.search.config import SEARCH_CONFIG_FILE, read_search_config
from mrl_jax.inference.search.rotation import ROTATION_FILE, read_rotation, save_rotation
from mrl_jax.nn import param_tree
from mrl_jax.publishing.provenance import public_name

TOWERS = ("speech", "text")
"""Folders of the towers in a repository."""
VOCABULARIES = ("tokenizer.json", "vocab.json")
"""Files of words, which are no places on a machine whatever they look like."""


@dataclasses.dataclass(frozen=True)
class Repository:
    """A model, ready to be uploaded.

    Attributes:
        folder: the model's own.
        info: model.json as the repository has it.
        towers: places of the model's towers on this machine, by `TOWERS`.
        with_towers: the repository holds them.
        files: places of the contents on this machine, by name in the repository.
        left_out: what else is in the model's folder, with the reason where that is not obvious.
    """

    folder: Path
    info: ModelInfo
    towers: Mapping[str, Path]
    with_towers: bool
    files: Mapping[str, Path]
    left_out: tuple[str, ...]


@contextlib.contextmanager
@checked
def open_repository(folder: Path, *, with_towers: bool = True) -> Iterator[Repository]:
    """Collect a model's files, each compared with its digest; nothing large is copied.

    Args:
        folder: of a trained model.
        with_towers: put the towers in. Without them the model is loaded from a folder where
            they were put beside the rest.

    Raises:
        MrlError: no model; a file is missing or damaged, has no digest, is of a kind that is never
            fetched, or says where something is on this machine.
    """
    info = read_model_info(folder)
    tower_infos = read_towers(folder, info)
    _check_digests(folder, info.files, MODEL_FILE)
    verify_head(folder, info)
    towers = {
        name: referenced_path(folder, reference.path).resolve()
        for name, reference in zip(TOWERS, (info.speech, info.text), strict=True)
    }
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        described = _write_model(folder, info, made)
        left_out = _write_companions(folder, info, made)
        files = {path.name: path for path in sorted(made.iterdir())}
        if with_towers:
            for name, place in towers.items():
                files |= _tower_files(name, place, tower_infos[name])
        left_out += _others(folder, info, towers, set(files))
        yield Repository(folder, described, towers, with_towers, files, tuple(left_out))


def _write_model(folder: Path, info: ModelInfo, out: Path) -> ModelInfo:
    """head.safetensors, and the model.json that names it and the towers inside."""
    arrays = read_head_arrays(folder / info.head, hint=TRAIN_AGAIN)
    if param_tree.digest(arrays) != info.head_digest:
        problem = f"the trained head is not the one that {MODEL_FILE} names (its digest differs)"
        raise MrlError(problem, where=folder / info.head, hint=TRAIN_AGAIN)
    (out / HEAD_FILE).write_bytes(head_bytes(arrays))
    described = dataclasses.replace(
        info,
        speech=TowerReference(path=TOWERS[0], digest=info.speech.digest),
        text=TowerReference(path=TOWERS[1], digest=info.text.digest),
        head=HEAD_FILE,
    )
    return describe_model(out, described)


def _write_companions(folder: Path, info: ModelInfo, out: Path) -> list[str]:
    """Search config and rotation of this head, without places of this machine; gives the names
    of those that are of another head or damaged.
    """
    left_out = []
    if (folder / SEARCH_CONFIG_FILE).is_file():
        try:
            _, directions = read_search_config(folder, info)
        except MrlError as error:
            left_out.append(f"{SEARCH_CONFIG_FILE} ({error.problem})")
        else:
            _copy_search_config(folder, out, has_directions=directions is not None)
    if (folder / ROTATION_FILE).is_file():
        try:
            rotation = read_rotation(folder, head_digest=info.head_digest)
        except MrlError as error:
            left_out.append(f"{ROTATION_FILE} ({error.problem})")
        else:
            assert rotation is not None
            save_rotation(out, dataclasses.replace(rotation, data=public_name(rotation.data)))
    return left_out


def _copy_search_config(folder: Path, out: Path, *, has_directions: bool) -> None:
    fields = read_object(folder / SEARCH_CONFIG_FILE, version=FORMAT)
    if "data" in fields["chosen"]:
        fields["chosen"]["data"] = public_name(str(fields["chosen"]["data"]))
    write_description(out / SEARCH_CONFIG_FILE, fields, version=FORMAT)
    if has_directions:
        name = f"search-{fields['directions'][:8]}.npy"
        (out / name).write_bytes((folder / name).read_bytes())


def _tower_files(name: str, place: Path, info: TowerInfo) -> dict[str, Path]:
    """Those that tower.json names, and no others, compared with their digests."""
    _check_digests(place, info.files, TOWER_FILE)
    verify_tower(place, info)
    for file in info.files:
        if not is_model_file(file):
            problem = f"is no file of a model, and would not be fetched, but {TOWER_FILE} names it"
            hint = f"move it away, and run `mrl-jax checksum --update {place}`"
            raise MrlError(problem, where=place / file, hint=hint)
        _refuse_places(place, file)
    return {f"{name}/{file}": place / file for file in (TOWER_FILE, *info.files)}


def _refuse_places(folder: Path, name: str) -> None:
    """Refuse a published file, such as config.json, that says where its author's files were, if
    that is on this machine.
    """
    if not name.endswith(".json") or Path(name).name in VOCABULARIES:
        return
    try:
        value = parse_json((folder / name).read_bytes())
    except ValueError:  # No loading reads it as JSON either.
        return
    home = f"{Path.home()}/" if Path.home() != Path("/") else None
    for text in _texts(value):
        if text.startswith("/") and ((home and text.startswith(home)) or _is_there(text)):
            problem = f"holds a path of this machine, {text}"
            hint = f"take it out, and run `mrl-jax checksum --update {folder}`"
            raise MrlError(problem, where=folder / name, hint=hint)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, without the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for one in inner:
            yield from _texts(one)


def _is_there(text: str) -> bool:
    """Whether a path of two parts or more is on this machine."""
    with contextlib.suppress(OSError, ValueError):
        return len(Path(text).parts) > 2 and Path(text).exists()
    return False


def _check_digests(folder: Path, files: Mapping[str, str], named_by: str) -> None:
    if not files:
        problem = f"its {named_by} has no digests of its files, by which a download is verified"
        raise MrlError(problem, where=folder, hint=update_hint(folder))


def _others(
    folder: Path, info: ModelInfo, towers: Mapping[str, Path], files: set[str]
) -> list[str]:
    """What lies in the model's folder and is not uploaded."""
    home = folder.resolve()
    inside = {
        tower.relative_to(home).parts[0] for tower in towers.values() if tower.is_relative_to(home)
    }
    known = {info.head, SEARCH_CONFIG_FILE, ROTATION_FILE, *inside, *files}
    return [
        f"{path.name}/" if path.is_dir() else path.name
        for path in sorted(folder.iterdir())
        if path.name not in known
    ]
