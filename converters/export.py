"""Write a tower folder back as a Hugging Face checkpoint folder."""

import json
from collections.abc import Callable
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
from .language_adapters import export_language
from .published_folder import SHARD_BYTES, save_shards
from .rules import published_names


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
            return np.asarray(item.layout.inverse(array), order="C")

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
        if (language := info.naming.get("language")) is not None:
            outputs = info.groups["lm_head"]["kernel"][-1]
            export_language(staging, language, tensors, outputs)
        files = save_shards(staging, tensors, sizes, shard_bytes)
    return {
        "kind": info.kind,
        "tensors": len(tensors),
        "files": files,
        "dtype": info.dtype,
        "note": _vocabulary_note(model, info),
    }


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
