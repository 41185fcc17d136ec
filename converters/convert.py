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
from mrl_jax.models.towers import TOWERS
from mrl_jax.nn import param_tree

from . import lora
from .checkpoints import DTYPE_NAMES, DTYPES, Checkpoint, check_floats, file_digest, open_checkpoint
from .config_audit import check_classes, unread_fields
from .families import Description, Family, family_of, find_family
from .formats import quantised_tensor
from .language_adapters import adapter_files, with_adapter
from .oolel_modes import refuse_speech_half
from .rules import UNUSED, Plan, RuleTable, first_of, plan
from .sentence_files import with_dense
from .sentence_folder import copy_tower_files
from .sources import find_checkpoint


def convert(
    source: str,
    out: Path,
    *,
    family: str,
    dtype: str | None = None,
    language: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    adapter: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert a checkpoint; gives the report that is also written to `out`/report.json.

    Args:
        source: local folder or hub id.
        out: the tower folder to make.
        family: one of `converters.FAMILIES`.
        dtype: dtype to store; that of the checkpoint by default.
        language: whose adapter to take, of a checkpoint that has several (MMS).
        revision: branch, tag or commit on the hub.
        subfolder: folder inside `source` to read instead.
        adapter: local folder or hub id of a LoRA adapter to merge into a Qwen3 checkpoint.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: the checkpoint is damaged, unsupported, or not in bijection with the
            module; or `out` cannot be written. Nothing is left under `out` then.
    """
    checkpoint = open_source(
        source,
        family=family,
        language=language,
        adapter=adapter,
        revision=revision,
        subfolder=subfolder,
    )
    refuse_speech_half(checkpoint)
    check_apart(checkpoint.folder, out)
    published = find_family(family, checkpoint.config, checkpoint.folder / "config.json")
    conversion = prepare(checkpoint, published.describe(checkpoint), dtype=dtype)
    notes = [] if checkpoint.adapter is None else lora.notes(checkpoint, source, dtype)
    with staged_folder(
        out, marker=TOWER_FILE, overwrite=overwrite, needs_bytes=conversion.size
    ) as staging:
        files = copy_tower_files(checkpoint.folder, staging)
        source_of = origin(conversion.checkpoint, source)
        return write_tower(staging, conversion, origin=source_of, files=files, notes=notes)


def open_base(folder: Path, source: str, *, adapter: str | None = None, family: str) -> Checkpoint:
    """A checkpoint, with an adapter merged into it if one is named.

    Args:
        folder: of `find_checkpoint`.
        source: what the user called it.
        adapter: local folder or hub id of a LoRA adapter for it.
        family: one of `converters.FAMILIES`.

    Raises:
        MrlError: the checkpoint or the adapter is damaged or not supported, they do not belong
            together, or the folder holds an adapter that was not named.
    """
    lora.check_adapter_beside(folder, source, adapter=adapter, family=family)
    checkpoint = open_checkpoint(folder)
    if adapter is None:
        return checkpoint
    if family != "qwen3":
        problem = f"adapters are merged into qwen3 towers only, and this is a {family} tower"
        raise MrlError(problem, where=adapter, hint=lora.MERGE_YOURSELF)
    return lora.merge(checkpoint, lora.read_adapter(adapter), source)


def open_source(
    source: str,
    *,
    family: str,
    language: str | None = None,
    adapter: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
) -> Checkpoint:
    """The checkpoint that `source` is, with the adapters that are named; arguments of `convert`.

    Raises:
        MrlError: see `find_checkpoint`, `open_base` and `with_adapter`.
    """
    more = () if language is None else adapter_files(language)
    folder = find_checkpoint(source, revision=revision, subfolder=subfolder, more=more)
    checkpoint = open_base(folder, source, adapter=adapter, family=family)
    return checkpoint if language is None else with_adapter(checkpoint, language)


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
        checkpoint: the published tensors, without those of Dense layers.
        description: what they are.
        dtype: dtype to store; that of each tensor by default.
        where: what to call the checkpoint in an error; its folder by default.

    Raises:
        MrlError: they are not.
    """
    family = family_of(description.kind)
    if TOWERS[description.kind].modality == "text":
        checkpoint = with_dense(checkpoint)
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
    language = {"language": checkpoint.language} if checkpoint.language else {}
    naming = {**proven.naming, "tied_output": tied, **language}
    proven = dataclasses.replace(proven, naming=naming)
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
    """Refuse dtypes of no weights where a tensor is computed with, or was left by quantisation."""
    others = {
        key: tensor
        for key, tensor in checkpoint.tensors.items()
        if tensor.dtype not in DTYPES.values()
    }
    kept = [
        key
        for key, tensor in others.items()
        if not quantised_tensor(key, DTYPE_NAMES[tensor.dtype])
        and all(rule.target.startswith(UNUSED) for rule, *_ in table.match(key))
    ]
    check_floats({key: tensor for key, tensor in others.items() if key not in kept})


def origin(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """Where the weights come from, for a report."""
    files = sorted({info.file for info in checkpoint.tensors.values()})
    names = {path: _name_within(path, checkpoint.folder) for path in files}
    digests = {name: f"sha256:{file_digest(path)}" for path, name in names.items()}
    merged = {} if checkpoint.adapter is None else {"adapter": checkpoint.adapter.record()}
    return {
        "source": source,
        "revision": checkpoint.revision,
        "source_digests": digests,
        **merged,
    }


def _name_within(path: Path, folder: Path) -> str:
    """A file's name relative to the checkpoint's folder, or to the one around it."""
    around = folder if path.is_relative_to(folder) else folder.parent
    return path.relative_to(around).as_posix()


def write_tower(
    folder: Path,
    conversion: Conversion,
    *,
    origin: Mapping[str, Any],
    files: Sequence[str],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Read the tensors and write the tower beside its published files.

    Args:
        folder: a staged folder.
        conversion: what `prepare` gave.
        origin: of the function of that name.
        files: the published files that are in `folder`.
        notes: what else is said of the conversion.

    Returns:
        The report that is also written to `folder`/report.json.
    """
    checkpoint, described, proven = conversion.checkpoint, conversion.description, conversion.plan
    weights, not_finite = read_weights(checkpoint, proven, conversion.dtypes)
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
        **({"language": checkpoint.language} if checkpoint.language else {}),
        "files": list(files),
        "unread_config": dict(conversion.unread),
        "not_finite": not_finite,
        "notes": [
            *described.notes,
            *weight_notes(not_finite),
            *_config_notes(conversion.unread),
            *notes,
        ],
        "mrl_jax": mrl_jax.__version__,
    }
    write_json(folder / "report.json", report)
    return report


def _config_notes(unread: Mapping[str, Any]) -> list[str]:
    """What is said of fields that nothing reads."""
    named = [f"{name} ({value!r})" for name, value in unread.items()]
    fields = first_of(named, "others")
    return [f"config.json has fields that are not read: {fields}"] if named else []


def weight_notes(not_finite: Mapping[str, int]) -> list[str]:
    """What is said of values that are no numbers, from `read_weights`."""
    named = [f"{key} ({count})" for key, count in not_finite.items()]
    return [f"NaN or infinite values in {first_of(named, 'others')}"] if named else []


def read_weights(
    checkpoint: Checkpoint, proven: Plan, dtypes: Mapping[str, np.dtype[Any]]
) -> tuple[dict[str, dict[str, HostArray]], dict[str, int]]:
    """Fill every leaf, one published tensor in memory at a time.

    Args:
        checkpoint: where the tensors are read.
        proven: which tensor goes where.
        dtypes: what each leaf is stored in, by path.

    Returns:
        The leaves by group and by path within it, and how many values of a published tensor are
        NaN or infinite, by the names of those that have some.

    Raises:
        MrlError: a value does not fit the dtype.
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
