"""Convert a published checkpoint into a tower folder."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import mrl_jax
from mrl_jax.checkpoints.towers import TOWER_FILE, save_tower
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart, staged_folder, write_json
from mrl_jax.nn import param_tree

from . import families
from .checkpoints import (
    ALL_DTYPES,
    DTYPES,
    Checkpoint,
    copy_small_files,
    file_digest,
    find_checkpoint,
    open_checkpoint,
    wrong_dtype,
)
from .config_audit import check_classes, unread_fields
from .families import Description, Family, family_of
from .rules import UNUSED, Plan, RuleTable, first_of, plan
from .sentence_files import with_dense


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
        family: one of `converters.FAMILIES`.
        dtype: dtype to store; that of the checkpoint by default.
        revision: branch, tag or commit on the hub.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: the checkpoint is damaged, unsupported, or not in bijection with the
            module; or `out` cannot be written. Nothing is left under `out` then.
    """
    checkpoint = open_checkpoint(find_checkpoint(source, revision=revision))
    check_apart(checkpoint.folder, out)
    description = families.family(family).describe(checkpoint)
    conversion = prepare(with_dense(checkpoint), description, dtype=dtype)
    with staged_folder(
        out, marker=TOWER_FILE, overwrite=overwrite, needs_bytes=conversion.size
    ) as staging:
        files = copy_small_files(checkpoint.folder, staging)
        return write_tower(staging, conversion, origin=origin(checkpoint, source), files=files)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A checkpoint that was proven to fill a tower; its tensors are not read yet.

    Attributes:
        plan: which tensor goes where.
        dtypes: what each leaf is stored in, by path.
        unread: fields of config.json that are neither read nor known to be harmless.
    """

    checkpoint: Checkpoint
    description: Description
    plan: Plan
    dtypes: Mapping[str, np.dtype[Any]]
    unread: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of the tower's weights."""
        shapes = self.plan.shapes
        return sum(math.prod(shapes[path]) * dtype.itemsize for path, dtype in self.dtypes.items())


def prepare(
    checkpoint: Checkpoint,
    description: Description,
    *,
    dtype: str | None = None,
    where: object = None,
) -> Conversion:
    """Prove that a checkpoint and its module are in bijection.

    Args:
        checkpoint: the published tensors.
        description: what they are.
        dtype: dtype to store; that of each tensor by default.
        where: what to call the checkpoint in an error; its folder by default.

    Raises:
        MrlError: they are not.
    """
    family = family_of(description.kind)
    config_path = checkpoint.folder / "config.json"
    check_classes(checkpoint.config, family, where=config_path)
    unread = unread_fields(checkpoint.config, family, where=config_path)
    _check_dtypes(checkpoint, family.table)
    where = checkpoint.folder if where is None else where
    shapes = {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    output, _ = family.tied or ("", "")
    tied = bool(checkpoint.config.get("tie_word_embeddings", False)) and output in shapes
    if tied:
        _check_tied(checkpoint, family, where=where)
        del shapes[output]
    proven = plan(family.table, shapes, description.leaves, where=where)
    proven = dataclasses.replace(proven, naming={**proven.naming, "tied_output": tied})
    published: dict[str, set[np.dtype[Any]]] = defaultdict(set)
    for item in proven.assignments:
        published[item.path].add(checkpoint.tensors[item.key].dtype)
    dtypes = {
        path: kinds.pop() if len(kinds) == 1 else DTYPES["float32"]
        for path, kinds in published.items()
    }
    if dtype is not None:
        # Counters and the like, which nothing computes with, are no numbers to be rounded.
        floats = [path for path, kind in dtypes.items() if kind.kind not in "iub"]
        dtypes |= dict.fromkeys(floats, DTYPES[dtype])
    return Conversion(checkpoint, description, proven, dtypes, unread)


def _check_tied(checkpoint: Checkpoint, family: Family, *, where: object) -> None:
    """Raises an `MrlError` where an output layer is not the embeddings that it is tied to."""
    assert family.tied is not None
    output, embeddings = family.tied
    names = (embeddings, family.table.prefix + embeddings)
    key = next((name for name in names if name in checkpoint.tensors), None)
    if key is None:
        raise MrlError(
            f"has {output} and no {embeddings}, which config.json ties to it: an encoder is saved "
            "with its embeddings",
            where=where,
            hint="load it as a language model and save it again, by transformers",
        )
    if not np.array_equal(checkpoint.read(key), checkpoint.read(output)):
        raise MrlError(
            f"{output} differs from {embeddings}, though config.json ties them",
            where=where,
            hint="set tie_word_embeddings to false if the output layer is one of its own",
        )


def _check_dtypes(checkpoint: Checkpoint, table: RuleTable) -> None:
    """Raises an `MrlError` where a tensor that is computed with is of no dtype of weights."""
    names = {dtype: name for name, dtype in ALL_DTYPES.items()}
    for key, tensor in checkpoint.tensors.items():
        used = [rule for rule, *_ in table.match(key) if not rule.target.startswith(UNUSED)]
        if used and tensor.dtype not in DTYPES.values():
            raise wrong_dtype(key, names[tensor.dtype], tensor.file)


def origin(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """Where the weights come from, for a report."""
    files = sorted({info.file for info in checkpoint.tensors.values()})
    digests = {path.name: f"sha256:{file_digest(path)}" for path in files}
    return {"source": source, "revision": checkpoint.revision, "source_digests": digests}


def write_tower(
    folder: Path, conversion: Conversion, *, origin: Mapping[str, Any], files: Sequence[str]
) -> dict[str, Any]:
    """Read the tensors and write the tower beside its published files.

    Args:
        folder: a staged folder.
        conversion: what `prepare` gave.
        origin: of the function of that name.
        files: the published files that are in `folder`.

    Returns:
        The report that is also written to `folder`/report.json.
    """
    checkpoint, described, proven = conversion.checkpoint, conversion.description, conversion.plan
    weights, not_finite = _read_weights(checkpoint, proven, conversion.dtypes)
    options = {"naming": proven.naming, "vocabulary": described.vocabulary}
    info = save_tower(folder, described.kind, described.config, weights, **options)
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
        "unread_config": dict(conversion.unread),
        "not_finite": not_finite,
        "notes": [*described.notes, *_weight_notes(not_finite), *_config_notes(conversion.unread)],
        "mrl_jax": mrl_jax.__version__,
    }
    write_json(folder / "report.json", report)
    return report


def _config_notes(unread: Mapping[str, Any]) -> list[str]:
    """What is said of fields that nothing reads."""
    named = [f"{name} ({value!r})" for name, value in unread.items()]
    fields = first_of(named, "others")
    return [f"config.json has fields that are not read: {fields}"] if named else []


def _weight_notes(not_finite: Mapping[str, int]) -> list[str]:
    """What is said of values that are no numbers."""
    named = [f"{key} ({count})" for key, count in not_finite.items()]
    return [f"NaN or infinite values in {first_of(named, 'others')}"] if named else []


def _read_weights(
    checkpoint: Checkpoint, proven: Plan, dtypes: Mapping[str, np.dtype[Any]]
) -> tuple[dict[str, dict[str, HostArray]], dict[str, int]]:
    """Fill every leaf, one published tensor in memory at a time.

    Returns:
        the leaves by group and path, and how many values of a published tensor are NaN or
        infinite, by the names of those that have some.
    """
    not_finite: dict[str, int] = {}
    leaves = {path: np.empty(proven.shapes[path], dtype) for path, dtype in dtypes.items()}
    progress = tqdm(proven.assignments, desc="reading", unit=" tensors", disable=None)
    for item in progress:
        target = leaves[item.path] if item.layer is None else leaves[item.path][item.layer]
        tensor = item.layout.forward(checkpoint.read(item.key))
        with np.errstate(over="ignore"):
            target[...] = tensor
        finite = np.isfinite(tensor)
        if bad := int(finite.size - np.count_nonzero(finite)):
            not_finite[item.key] = bad
        if target.dtype == np.float16 and not np.array_equal(np.isfinite(target), finite):
            raise MrlError(
                f"{item.key} does not fit {target.dtype.name}: some values became infinite",
                where=checkpoint.folder,
                hint="use --dtype bfloat16, which has the range of float32",
            )
    weights: dict[str, dict[str, HostArray]] = defaultdict(dict)
    for path, array in leaves.items():
        group, name = path.split(".", 1)
        weights[group][name] = array
    return dict(weights), not_finite
