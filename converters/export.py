"""Write a tower folder back as a Hugging Face checkpoint folder."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.checkpoints.towers import (
    CONVERT_AGAIN,
    TowerInfo,
    read_checked_weights,
    read_info,
    verify_tower,
)
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import existing_file
from mrl_jax.core.files import check_apart, staged_folder
from mrl_jax.core.links import check_links
from mrl_jax.nn import param_tree

from .checkpoints import copy_small_files, read_json
from .families import family_of
from .language_adapters import export_language
from .published_folder import SHARD_BYTES, save_shards
from .rules import Assignment, Layout, published_names
from .sentence_files import dense_place, module_folders
from .sentence_folder import MODULES


def export(
    model: Path, out: Path, *, shard_bytes: int = SHARD_BYTES, overwrite: bool = False
) -> dict[str, Any]:
    """Write a tower folder back, with the names of its own checkpoint, in the tower's dtype.

    Args:
        model: a tower folder.
        out: the checkpoint folder to make.
        shard_bytes: size above which weights are split into several files.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: `model` is no tower or is damaged, or `out` cannot be written.
    """
    info = read_info(model)
    check_links(model)
    check_apart(model, out)
    tensors = tower_tensors(model, info)
    with staged_folder(
        out, marker="config.json", overwrite=overwrite, needs_bytes=tensors.size
    ) as staging:
        files = write_published(staging, model, info, tensors, shard_bytes)
    return {
        "kind": info.kind,
        "tensors": len(tensors.read),
        "files": files,
        "dtype": info.dtype,
        "note": _vocabulary_note(model, info),
    }


@dataclasses.dataclass(frozen=True)
class PublishedTensors:
    """Tensors under their published names, made one at a time.

    Attributes:
        read: makes each of them.
        sizes: bytes of each.
    """

    read: dict[str, Callable[[], HostArray]] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(self.sizes.values())

    def add(self, assignments: Iterable[Assignment], leaves: Mapping[str, HostArray]) -> None:
        """Put our leaves, by path, under the names that the assignments give them."""
        for item in assignments:
            array = leaves[item.path] if item.layer is None else leaves[item.path][item.layer]

            def tensor(array: HostArray = array, layout: Layout = item.layout) -> HostArray:
                # Not ascontiguousarray, which makes a number a vector.
                return np.asarray(layout.inverse(array), order="C")

            self.read[item.key], self.sizes[item.key] = tensor, array.nbytes


def tower_tensors(
    tower: Path, info: TowerInfo, *, naming: Mapping[str, Any] | None = None
) -> PublishedTensors:
    """A tower's tensors under the names of its own checkpoint.

    Args:
        tower, info: its folder and its tower.json.
        naming: changes to how that checkpoint spelled them.

    Raises:
        MrlError: the tower is damaged.
    """
    existing_file(tower / "config.json", hint=CONVERT_AGAIN)
    verify_tower(tower, info)
    leaves = param_tree.flatten(read_checked_weights(tower, info))
    family, naming = family_of(info.kind), {**info.naming, **(naming or {})}
    shapes = {path: array.shape for path, array in leaves.items()}
    tensors = PublishedTensors()
    tensors.add(published_names(family.table, shapes, naming), leaves)
    if naming.get("tied_output") and family.tied is not None:
        output, embeddings = family.tied
        embeddings = naming["prefix"] + embeddings
        tensors.read[output] = tensors.read[embeddings]
        tensors.sizes[output] = tensors.sizes[embeddings]
    return tensors


def write_published(
    folder: Path, tower: Path, info: TowerInfo, tensors: PublishedTensors, shard_bytes: int
) -> list[str]:
    """Write a tower's small files and its tensors into a staged folder.

    Returns:
        The names of the weight files.
    """
    copy_small_files(tower, folder)
    _declare_dtype(folder / "config.json", info)
    if (language := info.naming.get("language")) is not None:
        outputs = info.groups["lm_head"]["kernel"][-1]
        export_language(folder, language, tensors.read, outputs)
    return _save(folder, tensors, shard_bytes)


def _save(folder: Path, tensors: PublishedTensors, shard_bytes: int) -> list[str]:
    """Write the weight files, those of Dense layers into their own folders; gives their names."""
    modules = module_folders(folder) if (folder / MODULES).is_file() else []
    dense = [place for name, place in modules if name == "Dense"]
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for key in tensors.read:
        place, name = dense_place(key, dense) or ("", key)
        parts[place][name] = key
    files = []
    for place, keys in parts.items():
        (folder / place).mkdir(exist_ok=True)
        made = {name: tensors.read[key] for name, key in keys.items()}
        sizes = {name: tensors.sizes[key] for name, key in keys.items()}
        names = save_shards(folder / place, made, sizes, shard_bytes)
        files += [f"{place}/{name}" if place else name for name in names]
    return files


def _vocabulary_note(model: Path, info: TowerInfo) -> str:
    """What transformers cannot do with a recogniser's tokens; empty where there is nothing."""
    if info.vocabulary is None or not info.vocabulary.byte_level:
        return ""
    if not (model / "vocab.json").is_file():
        return "two outputs write the same token, so there is no vocab.json"
    if not read_json(model / "tokenizer_config.json").get("byte_level"):
        return ""
    return (
        "some tokens are parts of characters, which transformers' CTC tokenizer cannot join: "
        "vocab.json has them as byte-level BPE writes them"
    )


def _declare_dtype(path: Path, info: TowerInfo) -> None:
    """Make config.json name the dtype of the weights beside it."""
    if info.dtype == "mixed":
        return
    config = read_json(path)
    name = "torch_dtype" if "torch_dtype" in config else "dtype"
    if config.get(name) != info.dtype:
        config[name] = info.dtype
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
