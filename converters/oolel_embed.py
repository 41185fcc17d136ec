"""Convert the published Oolel-Embed speech model: two towers and a trained head, as one model."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mrl_jax
from mrl_jax.checkpoints.models import MODEL_FILE, save_model, tower_reference
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.files import check_apart, staged_folder
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
from .convert import Conversion, origin, prepare, read_hubert, read_qwen3, write_tower
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
    revision: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert a published speech model; gives the report that is also in `out`/report.json.

    Args:
        source: local folder or hub id.
        out: the model folder to make: `speech` and `text` towers, and the head.
        dtype: dtype to store the towers in; that of the checkpoint by default. The head
            computes in float32 and is stored so.
        revision: branch, tag or commit on the hub.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: a part is missing, ambiguous, unsupported or left over; or `out` cannot
            be written. Nothing is left under `out` then.
    """
    folder = find_checkpoint(source, revision=revision)
    raw = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    raws = {tower.name: tower_config(folder, raw, tower) for tower in (SPEECH, TEXT)}
    speech_raw, speech_where = raws["speech"]
    text_raw, text_where = raws["text"]
    preprocessor = hubert.read_preprocessor(folder / SPEECH.folder)
    speech = hubert.parse_config(
        speech_raw,
        where=speech_where,
        preprocessor=preprocessor or hubert.read_preprocessor(folder),
    )
    text = qwen3.parse_config(text_raw, where=text_where)

    checkpoint = open_checkpoint(folder, config=raw)
    check_apart(folder, out)
    parts = find_parts(checkpoint.tensors, speech, text, where=folder)
    # Characters of a recogniser are read from its own folder only: a vocab.json beside
    # both towers is the text tokenizer's.
    view = _view(checkpoint, parts, SPEECH, speech_raw, folder / SPEECH.folder)
    family = dataclasses.replace(read_hubert(view), config=speech)
    speech_tower = prepare(view, family, dtype=dtype, where=_where(folder, parts, SPEECH))
    view = _view(checkpoint, parts, TEXT, text_raw, folder)
    text_tower = prepare(view, read_qwen3(view), dtype=dtype, where=_where(folder, parts, TEXT))
    head = {
        f"head.{path}": np.ascontiguousarray(
            HEAD[path].forward(checkpoint.read(key)).astype(np.float32)
        )
        for path, key in parts.head.items()
    }

    size = speech_tower.size + text_tower.size + sum(array.nbytes for array in head.values())
    with staged_folder(out, marker=MODEL_FILE, overwrite=overwrite, needs_bytes=size) as staging:
        (staging / "speech").mkdir()
        (staging / "text").mkdir()
        _copy_files(folder, staging, speech_raw, text_raw)
        source_of = origin(checkpoint, source)
        towers = {
            "speech": _write(staging / "speech", speech_tower, source_of),
            "text": _write(staging / "text", text_tower, source_of),
        }
        info = save_model(
            staging,
            {
                "kind": "late_fusion",
                # Relative to the model's folder, so they outlive its renaming.
                "speech": tower_reference(staging / "speech", staging),
                "text": tower_reference(staging / "text", staging),
                "fusion": LateFusionConfig(end_token=None),
                "padding": "reference",
                "dims": tuple(dim for dim in DIMS if dim <= text.width) or (text.width,),
                "prompts": {},
                "max_text_tokens": MAX_TEXT_TOKENS,
                "step": 0,
                "scores": {},
            },
            head,
        )
        report = {
            "kind": info.kind,
            **source_of,
            "prefixes": dict(parts.prefixes),
            "head_tensors": dict(parts.head),
            "head_parameters": param_tree.count(head),
            "head_digest": f"sha256:{info.head_digest}",
            "tensors": len(checkpoint.tensors),
            "dims": list(info.dims),
            "towers": towers,
            "mrl_jax": mrl_jax.__version__,
        }
        (staging / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _where(folder: Path, parts: Parts, tower: Tower) -> str:
    return f"{folder} ({tower.name} tower, {parts.prefixes[tower.name]}*)"


def _view(
    checkpoint: Checkpoint, parts: Parts, tower: Tower, config: Mapping[str, Any], folder: Path
) -> Checkpoint:
    """One tower of the checkpoint, as if it stood alone in `folder`."""
    prefix = parts.prefixes[tower.name]

    def read(key: str) -> HostArray:
        return checkpoint.read(prefix + key)

    tensors = {key: checkpoint.tensors[prefix + key] for key in parts.keys[tower.name]}
    return Checkpoint(folder, config, tensors, read, checkpoint.revision)


def _copy_files(
    folder: Path, staging: Path, speech_raw: Mapping[str, Any], text_raw: Mapping[str, Any]
) -> None:
    """Give each tower its published files: its config, and tokenizer or feature extractor.

    A tower's own folder goes before the files beside both.
    """
    speech, text = staging / "speech", staging / "text"
    copy_small_files(folder, text)
    for name in AUDIO_FILES:
        if (text / name).is_file():
            (text / name).rename(speech / name)
    for tower, target in ((SPEECH, speech), (TEXT, text)):
        if (folder / tower.folder).is_dir():
            copy_small_files(folder / tower.folder, target)
    for target, raw in ((speech, speech_raw), (text, text_raw)):
        (target / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _write(folder: Path, tower: Conversion, source_of: Mapping[str, Any]) -> dict[str, Any]:
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return write_tower(folder, tower, origin=source_of, files=files)
