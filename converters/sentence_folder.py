"""The layout of sentence-transformers folders: where the tower is, and where its modules are.

Today its files lie beside modules.json; earlier versions put them into `0_Transformer`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoints import WEIGHTS, copy_small_files, damaged, has_weights, read_json

MODULES = "modules.json"
OLD_FOLDER = "0_Transformer"
SETTINGS = (MODULES, "config_sentence_transformers.json")
"""Files that stand beside the folders of the modules, wherever the tower is."""


def transformer_folder(folder: Path) -> Path:
    """The folder of the tower itself, inside one that sentence-transformers wrote.

    It is `folder`, unless that has no weights and names or holds a folder of the tower.
    """
    if has_weights(folder):
        return folder
    named = _named_folder(folder)
    if named is not None:
        return named
    return folder / OLD_FOLDER if (folder / OLD_FOLDER / "config.json").is_file() else folder


def sentence_folder(folder: Path) -> Path:
    """The folder that holds the modules.json of a tower's folder: that one, or the one around it.

    Args:
        folder: of the tower, as `transformer_folder` gives it.
    """
    around = folder.parent
    alone = (folder / MODULES).is_file()
    if not alone and folder in (_named_folder(around), transformer_folder(around)):
        return around
    return folder


def dense_files(folder: Path) -> list[str]:
    """What the weights of the Dense layers in a folder's modules.json may be called."""
    names = [name for name, _ in WEIGHTS]
    return [f"{path}/{name}" for path in _paths_of(folder, "Dense") for name in names]


def _named_folder(folder: Path) -> Path | None:
    """The folder of the tower that modules.json names; None if it names none below."""
    paths = _paths_of(folder, "Transformer")
    return next((folder / path for path in paths if (folder / path).is_dir()), None)


def _paths_of(folder: Path, kind: str) -> list[str]:
    """The folders in this one that modules.json names for modules of a kind."""
    paths = [
        str(module.get("path") or "")
        for module in read_modules(folder)
        if str(module.get("type", "")).rsplit(".", 1)[-1] == kind
    ]
    return [path for path in paths if path and Path(path).name == path]


def read_modules(folder: Path) -> Sequence[Mapping[str, Any]]:
    """The entries of modules.json, or none without it.

    Raises:
        MrlError: it is no list of objects.
    """
    path = folder / MODULES
    if not path.is_file():
        return ()
    modules = read_json(path, kind=list)
    if not all(isinstance(one, Mapping) for one in modules):
        raise damaged("is not a list of objects", path)
    return modules


def copy_tower_files(folder: Path, target: Path) -> list[str]:
    """Copy a tower's small files, and the modules' from around it; returns their names.

    The copy has the layout of today: modules.json says that the tower lies beside it.
    """
    copied = copy_small_files(folder, target)
    around = sentence_folder(folder)
    if around == folder:
        return copied
    settings = [around / name for name in SETTINGS]
    for path in [*settings, *sorted(around.glob("[0-9]*_*/config.json"))]:
        name = path.relative_to(around).as_posix()
        if path.is_file() and path.parent != folder:
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).write_bytes(path.read_bytes())
            copied.append(name)
    if (target / MODULES).is_file():
        modules = [
            {**one, "path": ""} if one.get("path") == folder.name else one
            for one in read_modules(target)
        ]
        (target / MODULES).write_text(json.dumps(modules, indent=2), encoding="utf-8")
    return sorted(copied)
