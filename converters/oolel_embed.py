"""Convert the published Oolel-Embed speech model: two towers and a trained head, as one model."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mrl_jax
from mrl_jax.checkpoints.models import MODEL_FILE, save_model, tower_reference
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.files import check_apart, staged_folder, write_json
from mrl_jax.models.late_fusion import LateFusionConfig
from mrl_jax.nn import param_tree

from . import hubert, qwen3
from .checkpoints import (
    Checkpoint,
    copy_small_files,
    find_checkpoint,
    open_checkpoint,
    read_json,
)
from .convert import Conversion, origin, prepare, write_tower
from .oolel_parts import HEAD, SPEECH, TEXT, Parts, Tower, find_parts, tower_config

DIMS = (1024, 512, 256, 128)
"""Prefixes that the published head was trained on (arXiv 2602.19991)."""
MAX_TEXT_TOKENS = 2048
"""What its text tower was fine-tuned on at most."""
AUDIO_FILES = ("preprocessor_config.json", "processor_config.json")


def convert_oolel_embed(
    source: str,
    out: Path,
    *,
    dtype: str | None = None,
    dims: Iterable[int] = DIMS,
    revision: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert a published speech model; gives the report that is also in `out`/report.json.

    Args:
        source: local folder or hub id.
        out: the model folder to make: `speech` and `text` towers, and the head.
        dtype: dtype to store the towers in; that of the checkpoint by default. The head
            computes in float32 and is stored so.
        dims: prefixes that the model was trained on; those wider than its text tower are
            left out.
        revision: branch, tag or commit on the hub.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: a part is missing, ambiguous, unsupported or left over; or `out` cannot
            be written. Nothing is left under `out` then.
    """
    checkpoint, parts, towers = _read(find_checkpoint(source, revision=revision), out, dtype)
    head = {
        f"head.{path}": np.ascontiguousarray(
            HEAD[path].forward(checkpoint.read(key)).astype(np.float32)
        )
        for path, key in parts.head.items()
    }
    size = sum(tower.size for tower in towers.values()) + sum(a.nbytes for a in head.values())
    width = towers["text"].description.config.width
    with staged_folder(out, marker=MODEL_FILE, overwrite=overwrite, needs_bytes=size) as staging:
        _copy_files(checkpoint.folder, staging, towers)
        source_of = origin(checkpoint, source)
        reports = {}
        for name, tower in towers.items():
            place = staging / name
            names = (p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())
            reports[name] = write_tower(place, tower, origin=source_of, files=sorted(names))
        # Tower paths are relative to the model's folder, so they outlive its renaming.
        fields: dict[str, Any] = {name: tower_reference(staging / name, staging) for name in towers}
        fields |= {
            "kind": "late_fusion",
            "fusion": LateFusionConfig(end_token=None),
            "padding": "reference",
            "dims": tuple(dim for dim in dims if dim <= width) or (width,),
            "prompts": {},
            "max_text_tokens": MAX_TEXT_TOKENS,
            "step": 0,
            "scores": {},
        }
        info = save_model(staging, fields, head)
        report = {
            "kind": info.kind,
            **source_of,
            "prefixes": dict(parts.prefixes),
            "head_tensors": dict(parts.head),
            "head_parameters": param_tree.count(head),
            "head_digest": f"sha256:{info.head_digest}",
            "tensors": len(checkpoint.tensors),
            "dims": list(info.dims),
            "towers": reports,
            "mrl_jax": mrl_jax.__version__,
        }
        write_json(staging / "report.json", report)
    return report


def _read(
    folder: Path, out: Path, dtype: str | None
) -> tuple[Checkpoint, Parts, dict[str, Conversion]]:
    """A published model, its parts, and its towers, proven to be whole; no tensor is read yet."""
    raw = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    speech_raw, speech_where = tower_config(folder, raw, SPEECH)
    text_raw, text_where = tower_config(folder, raw, TEXT)
    audio = hubert.read_preprocessor(folder / SPEECH.folder) or hubert.read_preprocessor(folder)
    speech = hubert.parse_config(speech_raw, where=speech_where, preprocessor=audio)
    text = qwen3.parse_config(text_raw, where=text_where)

    checkpoint = open_checkpoint(folder, config=raw)
    check_apart(folder, out)
    parts = find_parts(checkpoint.tensors, speech, text, where=folder)
    # Characters of a recogniser are read from its own folder only: a vocab.json beside
    # both towers is the text tokenizer's.
    view = _view(checkpoint, parts, SPEECH, speech_raw, folder / SPEECH.folder)
    described = {"speech": (view, dataclasses.replace(hubert.describe(view), config=speech))}
    view = _view(checkpoint, parts, TEXT, text_raw, folder)
    described["text"] = (view, qwen3.describe(view))
    towers = {}
    for name, (view, description) in described.items():
        where = f"{folder} ({name} tower, {parts.prefixes[name]}*)"
        towers[name] = prepare(view, description, dtype=dtype, where=where)
    return checkpoint, parts, towers


def _view(
    checkpoint: Checkpoint, parts: Parts, tower: Tower, config: Mapping[str, Any], folder: Path
) -> Checkpoint:
    """One tower of the checkpoint, as if it stood alone in `folder`."""
    prefix = parts.prefixes[tower.name]

    def read(key: str) -> HostArray:
        return checkpoint.read(prefix + key)

    tensors = {key: checkpoint.tensors[prefix + key] for key in parts.keys[tower.name]}
    return Checkpoint(folder, config, tensors, read, checkpoint.revision)


def _copy_files(folder: Path, staging: Path, towers: Mapping[str, Conversion]) -> None:
    """Make each tower's folder with its published files: config, tokenizer, feature extractor.

    A tower's own folder goes before the files beside both.
    """
    for name in towers:
        (staging / name).mkdir()
    copy_small_files(folder, staging / "text")
    for name in AUDIO_FILES:
        if (staging / "text" / name).is_file():
            (staging / "text" / name).rename(staging / "speech" / name)
    for tower in (SPEECH, TEXT):
        if (folder / tower.folder).is_dir():
            copy_small_files(folder / tower.folder, staging / tower.name)
    for name, tower in towers.items():
        text = json.dumps(tower.checkpoint.config, indent=2) + "\n"
        (staging / name / "config.json").write_text(text, encoding="utf-8")
