"""A published speech model in one folder, whose tensor names are not fixed."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.array_types import HostArray
from mrl_jax.models.late_fusion import LateFusionConfig

from . import hubert, qwen3
from .checkpoints import Checkpoint, copy_small_files, open_checkpoint, read_json
from .convert import Conversion, origin, prepare
from .lora import check_adapter_beside
from .oolel_model import PublishedModel
from .oolel_modes import fitting_dims
from .oolel_parts import SPEECH, TEXT, Parts, Tower, find_parts, head_plan, tower_config
from .preprocessor import read_preprocessor

AUDIO_FILES = ("preprocessor_config.json", "processor_config.json")


def read_one_folder(
    folder: Path, source: str, *, dtype: str | None, dims: Sequence[int]
) -> PublishedModel:
    """A published late-fusion model whose tensors are all in one folder.

    Args:
        folder: that folder.
        source: what the user called it.
        dtype: dtype to store the towers in; that of the checkpoint by default.
        dims: prefixes that the head was trained on; those wider than the text tower are left out.

    Raises:
        MrlError: a part is missing, ambiguous, unsupported or left over.
    """
    checkpoint, parts, towers = _read(folder, dtype)
    speech, text = (towers[name].description.config for name in ("speech", "text"))
    source_of = origin(checkpoint, source)
    return PublishedModel(
        kind="late_fusion",
        config=LateFusionConfig(end_token=None),
        dims=fitting_dims(dims, text),
        towers=towers,
        prefixes=parts.prefixes,
        head=head_plan(parts.head, speech, text),
        head_checkpoint=checkpoint,
        origins=dict.fromkeys(towers, source_of),
        origin=source_of,
        tensors=len(checkpoint.tensors),
        copy_files=lambda staging: _copy_files(folder, staging, towers),
    )


def _read(folder: Path, dtype: str | None) -> tuple[Checkpoint, Parts, dict[str, Conversion]]:
    """A published model, its parts, and its towers, proven to be whole; no tensor is read yet."""
    raw = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    speech_raw, speech_where = tower_config(folder, raw, SPEECH)
    text_raw, text_where = tower_config(folder, raw, TEXT)
    audio = read_preprocessor(folder / SPEECH.folder) or read_preprocessor(folder)
    speech = hubert.parse_config(speech_raw, where=speech_where, preprocessor=audio)
    text = qwen3.parse_config(text_raw, where=text_where)

    check_adapter_beside(folder, str(folder), family="oolel-embed")
    checkpoint = open_checkpoint(folder, config=raw)
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
