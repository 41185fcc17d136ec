"""The feature extractor of a speech checkpoint, read as transformers reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoints import read_json
from .config_fields import Fields

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
EXTRACTOR = "Wav2Vec2FeatureExtractor"
READ = ("do_normalize", "sampling_rate", "feature_size", "feature_extractor_type")


def read_preprocessor(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The feature extractor's file and fields, or None if the folder has none.

    transformers 5 saves them within processor_config.json, earlier versions alone; where there are
    both, transformers 5 takes the former. A `do_normalize` of null is false, as it is there.

    Raises:
        MrlError: a file is damaged, or another feature extractor's.
    """
    files = _files(folder)
    if not files:
        return None
    path, raw = files[0]
    fields = Fields(raw, path)
    fields.require("feature_extractor_type", EXTRACTOR, default=EXTRACTOR)
    if fields.integer("feature_size", 1) != 1:
        fields.unsupported("feature_size", raw["feature_size"], "more than one value a sample")
    if "do_normalize" in raw and raw["do_normalize"] is None:
        raw = {**raw, "do_normalize": False}
    return path, raw


def preprocessor_notes(folder: Path) -> tuple[str, ...]:
    """What is said where two files disagree on how a clip is read."""
    files = _files(folder)
    if len(files) < 2:
        return ()
    (first, chosen), (second, other) = files
    differ = [name for name in READ if chosen.get(name) != other.get(name)]
    if not differ:
        return ()
    values = ", ".join(f"{name} {chosen.get(name)!r}, not {other.get(name)!r}" for name in differ)
    return (f"{first.name} and {second.name} differ, and the first counts: {values}",)


def _files(folder: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    """The files that describe a feature extractor, in transformers' order."""
    files: list[tuple[Path, Mapping[str, Any]]] = []
    if (path := folder / PROCESSOR).is_file():
        raw = read_json(path)
        fields = raw.get("feature_extractor", raw.get("audio_processor"))
        files += [(path, fields)] if isinstance(fields, Mapping) else []
    if (path := folder / PREPROCESSOR).is_file():
        files.append((path, read_json(path)))
    return files
