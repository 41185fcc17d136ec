"""Write a tower folder back as a Hugging Face checkpoint folder."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.checkpoints.towers import CONVERT_AGAIN, TowerInfo, read_checked_weights, read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import existing_file
from mrl_jax.core.files import check_apart, staged_folder
from mrl_jax.nn import param_tree

from .checkpoints import copy_small_files, read_json
from .families import family_of
from .published_folder import SHARD_BYTES, save_shards
from .rules import published_names
from .sentence_files import MODULES, dense_place, module_folders


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
    existing_file(model / "config.json", hint=CONVERT_AGAIN)
    check_apart(model, out)
    weights = read_checked_weights(model, info)
    leaves = param_tree.flatten(weights)
    family = family_of(info.kind)
    named = published_names(family.table, {p: a.shape for p, a in leaves.items()}, info.naming)
    tensors: dict[str, Callable[[], HostArray]] = {}
    sizes: dict[str, int] = {}
    for item in named:
        array = leaves[item.path] if item.layer is None else leaves[item.path][item.layer]

        def tensor(array: HostArray = array, item: Any = item) -> HostArray:
            return np.ascontiguousarray(item.layout.inverse(array))

        tensors[item.key], sizes[item.key] = tensor, array.nbytes
    if info.naming.get("tied_output") and family.tied is not None:
        output, embeddings = family.tied
        prefix = info.naming["prefix"]
        tensors[output], sizes[output] = tensors[prefix + embeddings], sizes[prefix + embeddings]

    with staged_folder(
        out, marker="config.json", overwrite=overwrite, needs_bytes=sum(sizes.values())
    ) as staging:
        copy_small_files(model, staging)
        _declare_dtype(staging / "config.json", info)
        files = _save(staging, tensors, sizes, shard_bytes)
    return {
        "kind": info.kind,
        "tensors": len(tensors),
        "files": files,
        "dtype": info.dtype,
        "note": _vocabulary_note(model, info),
    }


def _save(
    folder: Path,
    tensors: Mapping[str, Callable[[], HostArray]],
    sizes: Mapping[str, int],
    shard_bytes: int,
) -> list[str]:
    """Write the weight files, those of Dense layers into their own folders; gives their names."""
    modules = module_folders(folder) if (folder / MODULES).is_file() else []
    dense = [place for name, place in modules if name == "Dense"]
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for key in tensors:
        place, name = dense_place(key, dense) or ("", key)
        parts[place][name] = key
    files = []
    for place, keys in parts.items():
        (folder / place).mkdir(exist_ok=True)
        named = {name: tensors[key] for name, key in keys.items()}
        bytes_of = {name: sizes[key] for name, key in keys.items()}
        names = save_shards(folder / place, named, bytes_of, shard_bytes)
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
