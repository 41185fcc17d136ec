"""Convert a published checkpoint into a tower folder."""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import mrl_jax
from mrl_jax.checkpoints.towers import TOWER_FILE, save_tower
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart, staged_folder
from mrl_jax.models.ctc import CtcVocabulary, abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig, abstract_hubert
from mrl_jax.models.qwen3 import Qwen3Config, abstract_qwen3
from mrl_jax.nn import param_tree

from . import hubert, qwen3
from .checkpoints import (
    DOWNLOAD_AGAIN,
    DTYPES,
    Checkpoint,
    copy_small_files,
    file_digest,
    find_checkpoint,
    open_checkpoint,
)
from .rules import Plan, RuleTable, plan

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
    config = hubert.parse_config(
        checkpoint.config,
        where=checkpoint.folder / "config.json",
        preprocessor=hubert.read_preprocessor(checkpoint.folder),
    )
    if hubert.CTC_KEY not in checkpoint.tensors:
        leaves = param_tree.flat_weights(abstract_hubert(config))
        return Family("hubert", config, {f"encoder.{k}": v.shape for k, v in leaves.items()})
    output = checkpoint.tensors[hubert.CTC_KEY]
    if len(output.shape) != 2:
        raise MrlError(
            f"{hubert.CTC_KEY} is {output.shape}, expected (tokens, {config.width})",
            where=output.file,
            hint=DOWNLOAD_AGAIN,
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
    check_apart(checkpoint.folder, out)
    conversion = prepare(checkpoint, READERS[family](checkpoint), dtype=dtype)
    with staged_folder(
        out, marker=TOWER_FILE, overwrite=overwrite, needs_bytes=conversion.size
    ) as staging:
        files = copy_small_files(checkpoint.folder, staging)
        return write_tower(staging, conversion, origin=origin(checkpoint, source), files=files)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A checkpoint that was proven to fill a tower; its tensors are not read yet.

    Attributes:
        checkpoint: where the tensors are.
        family: what it is.
        plan: which tensor goes where.
        tied: whether a copy of the embeddings was left out of it.
        dtypes: what each leaf is stored in, by path.
    """

    checkpoint: Checkpoint
    family: Family
    plan: Plan
    tied: bool
    dtypes: Mapping[str, np.dtype[Any]]

    @property
    def size(self) -> int:
        """Bytes of the tower's weights."""
        return sum(
            math.prod(self.plan.shapes[path]) * dtype.itemsize
            for path, dtype in self.dtypes.items()
        )


def prepare(
    checkpoint: Checkpoint, family: Family, *, dtype: str | None = None, where: object = None
) -> Conversion:
    """Prove that a checkpoint and its module are in bijection.

    Args:
        checkpoint: the published tensors.
        family: what they are.
        dtype: dtype to store; that of each tensor by default.
        where: what to call the checkpoint in an error; its folder by default.

    Raises:
        MrlError: they are not.
    """
    proven, tied = _prove(checkpoint, family, checkpoint.folder if where is None else where)
    dtypes = _leaf_dtypes(checkpoint, proven, None if dtype is None else DTYPES[dtype])
    return Conversion(checkpoint, family, proven, tied, dtypes)


def origin(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """Where the weights come from, as a report tells it."""
    return {
        "source": source,
        "revision": checkpoint.revision,
        "source_digests": {
            path.name: f"sha256:{file_digest(path)}" for path in checkpoint.weight_files
        },
    }


def write_tower(
    folder: Path, conversion: Conversion, *, origin: Mapping[str, Any], files: Sequence[str]
) -> dict[str, Any]:
    """Read the tensors and write the tower beside its published files.

    Args:
        folder: a staged folder.
        conversion: what `prepare` gave.
        origin: where the weights come from.
        files: the published files that are in `folder`.

    Returns:
        The report that is also written to `folder`/report.json.
    """
    checkpoint, described, proven = conversion.checkpoint, conversion.family, conversion.plan
    weights = _read_weights(checkpoint, proven, conversion.dtypes)
    info = save_tower(
        folder,
        described.kind,
        described.config,
        weights,
        naming={**proven.naming, "tied_output": conversion.tied},
        vocabulary=described.vocabulary,
    )
    report = {
        "kind": info.kind,
        **origin,
        "source_dtypes": sorted({t.dtype.name for t in checkpoint.tensors.values()}),
        "dtype": info.dtype,
        "tensors": len(checkpoint.tensors),
        "leaves": len(proven.shapes),
        "parameters": param_tree.count(weights["encoder"])
        + param_tree.count(weights.get("lm_head", {})),
        "unused_tensors": sorted(weights.get("unused_tensors", {})),
        "digest": f"sha256:{info.digest}",
        "files": list(files),
        "mrl_jax": mrl_jax.__version__,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _prove(checkpoint: Checkpoint, family: Family, where: object) -> tuple[Plan, bool]:
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
                where=where,
                hint="set tie_word_embeddings to false if the output layer is one of its own",
            )
        del shapes[output]
    return plan(TABLES[family.kind], shapes, family.leaves, where=where), tied


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
        tensor = item.layout.forward(checkpoint.read(item.key))
        with np.errstate(over="ignore"):
            target[...] = tensor
        if target.dtype == np.float16 and not _same_finite(target, tensor):
            raise MrlError(
                f"{item.key} does not fit {target.dtype.name}: some values became infinite",
                where=checkpoint.folder,
                hint="use --dtype bfloat16, which has the range of float32",
            )
    weights: dict[str, dict[str, HostArray]] = defaultdict(dict)
    for path, array in leaves.items():
        group, name = path.split(".", 1)
        weights[group][name] = array
    return dict(weights)


def _same_finite(stored: HostArray, tensor: HostArray) -> bool:
    return np.array_equal(np.isfinite(stored), np.isfinite(tensor))
