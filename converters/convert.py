"""Convert one checkpoint into a tower folder, and export a tower back."""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tqdm import tqdm

import mrl_jax
from converters import hubert, qwen3
from converters.checkpoints import (
    DOWNLOAD_AGAIN,
    Checkpoint,
    copy_small_files,
    file_digest,
    find_checkpoint,
    open_checkpoint,
    read_json,
)
from converters.rules import Plan, RuleTable, plan, published_names
from mrl_jax import param_tree
from mrl_jax.array_types import HostArray
from mrl_jax.errors import MrlError, as_os_error, existing_file
from mrl_jax.models.ctc import CtcVocabulary, abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig, abstract_hubert
from mrl_jax.models.qwen3 import Qwen3Config, abstract_qwen3
from mrl_jax.staging import staged_folder
from mrl_jax.tower_folder import (
    CONVERT_AGAIN,
    TowerInfo,
    read_info,
    read_weights,
    save_tower,
    weights_digest,
)

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
TABLES: dict[str, RuleTable] = {
    "qwen3": qwen3.TABLE,
    "hubert": hubert.TABLE,
    "hubert_ctc": hubert.TABLE,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """What a checkpoint is, once its config was read.

    Attributes:
        kind: "qwen3", "hubert" or "hubert_ctc".
        config: our config.
        leaves: shapes of the module's leaves by path, group first.
        vocabulary: a recogniser's characters.
    """

    kind: str
    config: Qwen3Config | HubertConfig
    leaves: Mapping[str, tuple[int, ...]]
    vocabulary: CtcVocabulary | None = None


def read_qwen3(checkpoint: Checkpoint) -> Family:
    """What a Qwen3 checkpoint is.

    Raises:
        MrlError: its config is not supported.
    """
    config = qwen3.parse_config(checkpoint.config, where=checkpoint.folder / "config.json")
    leaves = param_tree.flat_weights(abstract_qwen3(config))
    return Family("qwen3", config, {f"encoder.{k}": v.shape for k, v in leaves.items()})


def read_hubert(checkpoint: Checkpoint) -> Family:
    """What a HuBERT checkpoint is, with or without a CTC output layer.

    Raises:
        MrlError: its config or vocabulary is not supported.
    """
    preprocessor_path = checkpoint.folder / "preprocessor_config.json"
    preprocessor = read_json(preprocessor_path) if preprocessor_path.is_file() else {}
    config = hubert.parse_config(
        checkpoint.config, preprocessor, where=checkpoint.folder / "config.json"
    )
    if hubert.CTC_KEY not in checkpoint.tensors:
        leaves = param_tree.flat_weights(abstract_hubert(config))
        return Family("hubert", config, {f"encoder.{k}": v.shape for k, v in leaves.items()})
    output = checkpoint.tensors[hubert.CTC_KEY]
    if len(output.shape) != 2:
        raise MrlError(
            f"{hubert.CTC_KEY} is {output.shape}, expected (tokens, {config.width})",
            where=output.file,
            mend=DOWNLOAD_AGAIN,
        )
    vocab_size = output.shape[0]
    leaves = param_tree.flat_weights(abstract_hubert_ctc(config, vocab_size))
    return Family(
        "hubert_ctc",
        config,
        {path: leaf.shape for path, leaf in leaves.items()},
        hubert.read_vocabulary(checkpoint.folder, checkpoint.config, vocab_size),
    )


READERS: dict[str, Callable[[Checkpoint], Family]] = {"qwen3": read_qwen3, "hubert": read_hubert}


def convert(
    source: str,
    out: Path,
    *,
    family: str,
    dtype: str | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert a checkpoint; gives the report that is also written to `out`/report.json.

    Args:
        source: local folder or hub id.
        out: the tower folder to make.
        family: "qwen3" or "hubert".
        dtype: dtype to store; that of the checkpoint by default.
        revision: branch, tag or commit on the hub.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: the checkpoint is damaged, unsupported, or not in bijection with the
            module; or `out` cannot be written. Nothing is left under `out` then.
    """
    checkpoint = open_checkpoint(find_checkpoint(source, revision=revision))
    described = READERS[family](checkpoint)
    proven, tied = _prove(checkpoint, described)
    stored = None if dtype is None else DTYPES[dtype]
    dtypes = _leaf_dtypes(checkpoint, proven, stored)
    size = sum(math.prod(proven.shapes[path]) * dtypes[path].itemsize for path in dtypes)

    with staged_folder(out, overwrite=overwrite, needs_bytes=size) as staging:
        files = copy_small_files(checkpoint.folder, staging)
        weights = _read_weights(checkpoint, proven, dtypes)
        info = save_tower(
            staging,
            described.kind,
            described.config,
            weights,
            naming={**proven.naming, "tied_output": tied},
            vocabulary=described.vocabulary,
        )
        report = {
            "kind": info.kind,
            "source": source,
            "revision": checkpoint.revision,
            "source_digests": {
                path.name: f"sha256:{file_digest(path)}" for path in checkpoint.weight_files
            },
            "source_dtypes": sorted({t.dtype.name for t in checkpoint.tensors.values()}),
            "dtype": info.dtype,
            "tensors": len(checkpoint.tensors),
            "leaves": len(proven.shapes),
            "parameters": param_tree.count(weights["encoder"])
            + param_tree.count(weights.get("lm_head", {})),
            "passengers": sorted(weights.get("passengers", {})),
            "digest": f"sha256:{info.digest}",
            "files": files,
            "mrl_jax": mrl_jax.__version__,
        }
        (staging / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def export(model: Path, out: Path, *, shard_bytes: int, overwrite: bool = False) -> dict[str, Any]:
    """Write a tower folder back as a Hugging Face checkpoint folder.

    Names are spelled as in the checkpoint that the tower came from; tensors have the
    tower's dtype.

    Args:
        model: a tower folder.
        out: the checkpoint folder to make.
        shard_bytes: size above which weights are split into several files.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: `model` is no tower or is damaged, or `out` cannot be written.
    """
    info = read_info(model)
    existing_file(model / "config.json", mend=CONVERT_AGAIN)
    weights = read_weights(model, info)
    if weights_digest(weights) != info.digest:
        raise MrlError(
            "the weights are not those that tower.json names (their digests differ)",
            where=model,
            mend="convert the checkpoint again",
        )
    leaves = {
        f"{group}.{path}": a for group, arrays in weights.items() for path, a in arrays.items()
    }
    named = published_names(TABLES[info.kind], {p: a.shape for p, a in leaves.items()}, info.naming)
    tensors: dict[str, Callable[[], HostArray]] = {}
    sizes: dict[str, int] = {}
    for item in named:
        array = leaves[item.path] if item.layer is None else leaves[item.path][item.layer]

        def tensor(array: HostArray = array, item: Any = item) -> HostArray:
            return np.ascontiguousarray(item.layout.inverse(array))

        tensors[item.key], sizes[item.key] = tensor, array.nbytes
    if info.naming.get("tied_output"):
        output, embeddings = qwen3.TIED
        prefix = info.naming["prefix"]
        tensors[output], sizes[output] = tensors[prefix + embeddings], sizes[prefix + embeddings]

    with staged_folder(out, overwrite=overwrite, needs_bytes=sum(sizes.values())) as staging:
        copy_small_files(model, staging)
        _declare_dtype(staging / "config.json", info)
        files = _save_shards(staging, tensors, sizes, shard_bytes)
    return {"kind": info.kind, "tensors": len(tensors), "files": files, "dtype": info.dtype}


def _prove(checkpoint: Checkpoint, family: Family) -> tuple[Plan, bool]:
    """The bijection, and whether a tied output layer was left out of it."""
    shapes = {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    tied = (
        family.kind == "qwen3"
        and bool(checkpoint.config.get("tie_word_embeddings", False))
        and qwen3.TIED[0] in shapes
    )
    if tied:
        output, embeddings = qwen3.TIED
        key = embeddings if embeddings in shapes else qwen3.TABLE.prefix + embeddings
        if key not in shapes or not np.array_equal(checkpoint.read(key), checkpoint.read(output)):
            raise MrlError(
                f"{output} differs from {embeddings}, though config.json ties them",
                where=checkpoint.folder,
                mend="set tie_word_embeddings to false if the output layer is one of its own",
            )
        del shapes[output]
    return plan(TABLES[family.kind], shapes, family.leaves, where=checkpoint.folder), tied


def _leaf_dtypes(
    checkpoint: Checkpoint, proven: Plan, stored: np.dtype[Any] | None
) -> dict[str, np.dtype[Any]]:
    """What each leaf is stored in: `stored`, or the one dtype its tensors have."""
    found: dict[str, set[np.dtype[Any]]] = defaultdict(set)
    for item in proven.assignments:
        found[item.path].add(checkpoint.tensors[item.key].dtype)
    if stored is not None:
        return dict.fromkeys(found, stored)
    return {
        path: dtypes.pop() if len(dtypes) == 1 else DTYPES["float32"]
        for path, dtypes in found.items()
    }


def _read_weights(
    checkpoint: Checkpoint, proven: Plan, dtypes: Mapping[str, np.dtype[Any]]
) -> dict[str, dict[str, HostArray]]:
    """Fill every leaf, one published tensor in memory at a time."""
    leaves = {path: np.empty(proven.shapes[path], dtype) for path, dtype in dtypes.items()}
    progress = tqdm(proven.assignments, desc="reading", unit=" tensors", disable=None)
    for item in progress:
        target = leaves[item.path] if item.layer is None else leaves[item.path][item.layer]
        target[...] = item.layout.forward(checkpoint.read(item.key))
    weights: dict[str, dict[str, HostArray]] = defaultdict(dict)
    for path, array in leaves.items():
        group, name = path.split(".", 1)
        weights[group][name] = array
    return dict(weights)


def _save_shards(
    folder: Path,
    tensors: Mapping[str, Callable[[], HostArray]],
    sizes: Mapping[str, int],
    shard_bytes: int,
) -> list[str]:
    shards: list[list[str]] = [[]]
    filled = 0
    for key, size in sizes.items():
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    names = _shard_names(len(shards))
    for name, keys in zip(names, shards, strict=True):
        part = {key: tensors[key]() for key in keys}
        try:
            save_file(part, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:
            raise as_os_error(error) from error
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {
                key: name for name, keys in zip(names, shards, strict=True) for key in keys
            },
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return names


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _declare_dtype(path: Path, info: TowerInfo) -> None:
    """Make config.json name the dtype of the weights beside it."""
    if info.dtype == "mixed":
        return
    config = read_json(path)
    name = "torch_dtype" if "torch_dtype" in config else "dtype"
    if config.get(name) != info.dtype:
        config[name] = info.dtype
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
