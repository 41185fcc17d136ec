"""Write a trained model back as the two folders that the paper's own code saves and loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.checkpoints.models import (
    MODEL_FILE,
    ModelInfo,
    read_head,
    read_model_info,
    read_towers,
)
from mrl_jax.checkpoints.towers import TowerInfo
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart, staged_folder
from mrl_jax.core.paths import referenced_path

from .checkpoints import DTYPES, read_json
from .export import PublishedTensors, tower_tensors, write_published
from .families import family_of
from .oolel_folders import ARCHITECTURE, FOLDERS
from .oolel_modes import NAMING, TABLES, head_leaves, published_kind
from .published_folder import SHARD_BYTES
from .rules import published_names


def is_model(folder: Path) -> bool:
    """Whether a folder is a trained model, and no tower."""
    return (folder / MODEL_FILE).is_file()


def export_oolel_embed(
    model: Path, out: Path, *, shard_bytes: int = SHARD_BYTES, overwrite: bool = False
) -> dict[str, Any]:
    """Write a trained or converted model as the folders `hubert_mrl` and `oolel_mrl`.

    Args:
        model: a model folder: late fusion with the published head, or a dual encoder with a
            layer for each dim.
        out: the folder to make above the two.
        shard_bytes: size above which weights are split into several files.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: the model has no such form, it or a tower is damaged, or `out` cannot be
            written.
    """
    info = read_model_info(model)
    kind, towers = published_kind(info.fusion), read_towers(model, info)
    family = family_of(towers["speech"].kind)
    if kind is None or family.model_type != "hubert":
        reason = _reason(info) if kind is None else f"reads speech by {family.model_type}"
        raise MrlError(
            f"{reason}, which the paper's own code does not have",
            where=model,
            hint="export its towers, one at a time; `mrl-jax train --config oolel_embed` trains "
            "a head that can be exported",
        )
    check_apart(model, out)
    places = {
        name: referenced_path(model, tower.path)
        for name, tower in (("speech", info.speech), ("text", info.text))
    }
    naming = {"prefix": family.table.prefix}
    tensors = {
        "speech": tower_tensors(places["speech"], towers["speech"], naming=naming),
        "text": tower_tensors(places["text"], towers["text"]),
    }
    _add_head(tensors["speech"], model, info, towers, kind)
    with staged_folder(
        out,
        marker=f"{FOLDERS['speech']}/config.json",
        overwrite=overwrite,
        needs_bytes=sum(one.size for one in tensors.values()),
    ) as staging:
        files = []
        for name, place in places.items():
            folder = staging / FOLDERS[name]
            folder.mkdir()
            written = write_published(folder, place, towers[name], tensors[name], shard_bytes)
            files += [f"{folder.name}/{file}" for file in written]
        _declare_architecture(staging / FOLDERS["speech"] / "config.json")
    return {
        "kind": info.kind,
        "tensors": sum(len(one.read) for one in tensors.values()),
        "files": files,
        "dtype": towers["speech"].dtype,
        "note": _note(info),
    }


def _reason(info: ModelInfo) -> str:
    """What the paper's code does not have of a model."""
    if getattr(info.fusion, "nested", False):
        return "is a dual encoder with one nested layer"
    if info.kind == "late_fusion":
        return f"pools the end token {info.fusion.end_token} behind the speech"
    return f"is of kind {info.kind}"


def _note(info: ModelInfo) -> str:
    """What the two folders cannot say of a model; empty where they say all."""
    if info.prompts:
        return f"the folders say nothing of the prompts of {', '.join(info.prompts)}"
    return ""


def _add_head(
    tensors: PublishedTensors,
    model: Path,
    info: ModelInfo,
    towers: Mapping[str, TowerInfo],
    kind: str,
) -> None:
    """Put the head's tensors beside the speech tower's."""
    shapes = head_leaves(info.fusion, towers["speech"].config, towers["text"].config)
    extra = {"log_temperature": ()} if info.fusion.learn_temperature else {}
    arrays = read_head(model, info, {**shapes, **extra})
    # Checked against all of the trained arrays; the temperature has no part in an embedding.
    head = _narrowed({path: arrays[path] for path in shapes}, towers["speech"].dtype)
    tensors.add(published_names(TABLES[kind], shapes, NAMING), head)


def _narrowed(head: Mapping[str, HostArray], dtype: str) -> Mapping[str, HostArray]:
    """The head in the tower's dtype if that holds every number of it, as it does where it was
    published so; else as it is, in float32."""
    if dtype not in DTYPES:
        return head
    with np.errstate(over="ignore"):
        narrow = {path: array.astype(DTYPES[dtype]) for path, array in head.items()}
    same = all(np.array_equal(narrow[path].astype(a.dtype), a) for path, a in head.items())
    return narrow if same else head


def _declare_architecture(path: Path) -> None:
    """Name the class of tower and head, where the tower came from elsewhere."""
    config = read_json(path)
    if config.get("architectures") != [ARCHITECTURE]:
        config["architectures"] = [ARCHITECTURE]
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
