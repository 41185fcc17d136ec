"""A published speech model whose parts were found, and the model folder that it becomes."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mrl_jax
from mrl_jax.checkpoints.models import MODEL_FILE, save_model, tower_reference
from mrl_jax.core.files import staged_folder, write_json
from mrl_jax.models.two_towers import HeadConfig
from mrl_jax.nn import param_tree

from .checkpoints import DTYPES, Checkpoint, check_floats
from .convert import Conversion, read_weights, weight_notes, write_tower
from .rules import Plan

MAX_TEXT_TOKENS = 2048
"""What the published text tower was fine-tuned on at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """Both towers and the head, proven to be whole; no tensor is read yet.

    Attributes:
        kind: one of `mrl_jax.models.heads.HEADS`.
        config: of the head.
        dims: widths that the head was trained for.
        towers: by name, "speech" and "text".
        prefixes: what the names of their tensors start with.
        head: which of the tensors of `head_checkpoint` goes where in the head.
        head_checkpoint: what holds the head's tensors.
        origins: where the weights of each tower come from, as `convert.origin` says.
        origin: the same of the whole model.
        tensors: number of published tensors, towers included.
        copy_files: writes the towers' small files into the folders `speech` and `text`, which
            it makes, of the folder it is given.
    """

    kind: str
    config: HeadConfig
    dims: tuple[int, ...]
    towers: Mapping[str, Conversion]
    prefixes: Mapping[str, str]
    head: Plan
    head_checkpoint: Checkpoint
    origins: Mapping[str, Mapping[str, Any]]
    origin: Mapping[str, Any]
    tensors: int
    copy_files: Callable[[Path], None]


def write_model(model: PublishedModel, out: Path, *, overwrite: bool) -> dict[str, Any]:
    """Read the tensors and write the model folder; gives the report that is also in it.

    The head computes in float32 and is stored so.

    Raises:
        MrlError: `out` cannot be written; nothing is left under `out` then.
    """
    head, not_finite = _read_head(model)
    size = sum(tower.size for tower in model.towers.values()) + sum(a.nbytes for a in head.values())
    with staged_folder(out, marker=MODEL_FILE, overwrite=overwrite, needs_bytes=size) as staging:
        model.copy_files(staging)
        reports = {}
        for name, tower in model.towers.items():
            place = staging / name
            names = (p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())
            reports[name] = write_tower(
                place, tower, origin=model.origins[name], files=sorted(names)
            )
        # Tower paths are relative to the model's folder, so they outlive its renaming.
        fields: dict[str, Any] = {
            name: tower_reference(staging / name, staging) for name in model.towers
        }
        fields |= {
            "kind": model.kind,
            "fusion": model.config,
            "padding": "reference",
            "dims": model.dims,
            "prompts": {},
            "max_text_tokens": MAX_TEXT_TOKENS,
            "step": 0,
            "scores": {},
        }
        info = save_model(staging, fields, head)
        report = {
            "kind": info.kind,
            **model.origin,
            "prefixes": dict(model.prefixes),
            "head_tensors": {
                item.path.removeprefix("head."): item.key for item in model.head.assignments
            },
            "head_parameters": param_tree.count(head),
            "head_digest": f"sha256:{info.head_digest}",
            "tensors": model.tensors,
            "dims": list(info.dims),
            "towers": reports,
            "not_finite": not_finite,
            "notes": weight_notes(not_finite),
            "mrl_jax": mrl_jax.__version__,
        }
        write_json(staging / "report.json", report)
    return report


def _read_head(model: PublishedModel) -> tuple[dict[str, Any], dict[str, int]]:
    """The head's arrays by path, and the second of what `read_weights` gives."""
    tensors = model.head_checkpoint.tensors
    check_floats({item.key: tensors[item.key] for item in model.head.assignments})
    dtypes = {item.path: DTYPES["float32"] for item in model.head.assignments}
    weights, not_finite = read_weights(model.head_checkpoint, model.head, dtypes)
    return {f"head.{path}": array for path, array in weights["head"].items()}, not_finite
