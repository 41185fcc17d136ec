"""The speech model as the paper's own code saves it: a speech folder and a text folder.

`oolel_mrl` is a sentence-transformers folder of the text tower; `hubert_mrl` holds the speech
tower's tensors as `hubert.*`, and those of the head beside them (arXiv 2602.19991).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError

from . import SPEECH as SPEECH_FAMILIES
from .checkpoints import Checkpoint, has_weights, read_json
from .convert import Conversion, open_base, origin, prepare
from .families import family
from .oolel_model import PublishedModel
from .oolel_modes import find_head, head_keys
from .oolel_parts import SPEECH, TEXT
from .sentence_folder import copy_tower_files, transformer_folder

FOLDERS = {"speech": "hubert_mrl", "text": "oolel_mrl"}
"""What the paper's own code calls them; they are read under any name."""
ARCHITECTURE = "HubertMatryoshka"
"""What config.json of the speech folder calls tower and head."""
PASS_BOTH = (
    "pass the folder above the speech folder and the text folder, or both: "
    "`mrl-jax convert oolel-embed SPEECH TEXT OUT`"
)


def find_folders(places: Sequence[Path]) -> dict[str, Path] | None:
    """The speech folder and the text folder, by modality; None where all is in one folder.

    Args:
        places: the folder above the two, or the two.

    Raises:
        MrlError: one of the two is missing or there twice, or a folder is neither.
    """
    if len(places) == 2:
        kinds = {place: _modality(place) for place in places}
        found = {kind: place for place, kind in kinds.items() if kind is not None}
        if other := next((place for place, kind in kinds.items() if kind is None), None):
            raise MrlError(
                "is neither a speech tower's nor a text tower's folder: expected a config.json "
                f"of model type {' or '.join(_modalities())}",
                where=other,
                hint=PASS_BOTH,
            )
        if len(found) == 1:
            (kind,) = found
            raise MrlError(
                f"both folders are {kind} towers, expected one of speech and one of text",
                where=" and ".join(map(str, places)),
                hint=PASS_BOTH,
            )
        return found
    (folder,) = places
    if has_weights(folder):
        _check_whole(folder)
        return None
    return _folders_below(folder)


def read_two_folders(
    folders: Mapping[str, Path], source: str, *, dtype: str | None, dims: Sequence[int]
) -> PublishedModel:
    """A published model in two folders; its mode follows from the head's tensors.

    Args:
        folders: of `find_folders`.
        source: what the user called them.
        dtype: dtype to store the towers in; that of the checkpoint by default.
        dims: prefixes that a late-fusion head was trained on.

    Raises:
        MrlError: a part is missing, left over, or not supported.
    """
    opened = {
        name: open_base(folders[name], str(folders[name]), family="oolel-embed")
        for name in ("speech", "text")
    }
    whole = opened["speech"]
    heads = {key for names in head_keys(whole.tensors).values() for key in names}
    tensors = {key: info for key, info in whole.tensors.items() if key not in heads}
    towers: dict[str, Conversion] = {}
    views = {"speech": dataclasses.replace(whole, tensors=tensors)}
    for name, view in (views | {"text": opened["text"]}).items():
        model_type = str(view.config.get("model_type"))
        towers[name] = prepare(view, family(model_type).describe(view), dtype=dtype)
    opened["text"] = towers["text"].checkpoint  # With its Dense layers.
    head = find_head(
        {key: whole.tensors[key] for key in heads},
        towers["speech"].description.config,
        towers["text"].description.config,
        dims=dims,
        where=whole.folder,
    )
    origins = {name: origin(one, str(folders[name])) for name, one in opened.items()}
    return PublishedModel(
        kind=head.kind,
        config=head.config,
        dims=head.dims,
        towers=towers,
        prefixes={name: tower.plan.naming["prefix"] for name, tower in towers.items()},
        head=head.plan,
        head_checkpoint=whole,
        origins=origins,
        origin=_joined(origins, opened, source),
        tensors=sum(len(one.tensors) for one in opened.values()),
        copy_files=lambda staging: _copy_files(folders, staging),
    )


def _joined(
    origins: Mapping[str, Mapping[str, Any]], opened: Mapping[str, Checkpoint], source: str
) -> dict[str, Any]:
    """Where the whole model comes from; digests of files by folder and name."""
    digests = {
        f"{opened[name].folder.name}/{file}": digest
        for name, one in origins.items()
        for file, digest in one["source_digests"].items()
    }
    revisions = {one["revision"] for one in origins.values()}
    revision = revisions.pop() if len(revisions) == 1 else None
    return {"source": source, "revision": revision, "source_digests": digests}


def _copy_files(folders: Mapping[str, Path], staging: Path) -> None:
    for name, folder in folders.items():
        (staging / name).mkdir()
        copy_tower_files(folder, staging / name)


def _folders_below(folder: Path) -> dict[str, Path] | None:
    """The two folders in this one, or None if there is neither."""
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    found: dict[str, list[str]] = {"speech": [], "text": []}
    for path in below:
        path = transformer_folder(path)
        if (kind := _modality(path)) is not None:
            found[kind].append(path.relative_to(folder).as_posix())
    if not any(found.values()):
        deeper = [path.name for path in below if any(map(_modality, _folders_in(path)))]
        if deeper:
            raise MrlError(
                f"holds several models, {' and '.join(deeper)}, expected the two folders of one",
                where=folder,
                hint=f"pass one of them: {folder / deeper[0]}",
            )
        return None
    for kind, names in found.items():
        if len(names) > 1:
            raise MrlError(
                f"has several {kind} towers, {' and '.join(names)}, expected one",
                where=folder,
                hint="name the two that belong together: "
                "`mrl-jax convert oolel-embed SPEECH TEXT OUT`",
            )
    if missing := next((kind for kind, names in found.items() if not names), None):
        (other,) = (name for names in found.values() for name in names)
        raise MrlError(
            f"has no {missing} tower: {other} is there, expected a folder as {FOLDERS[missing]} "
            "beside it",
            where=folder,
            hint=PASS_BOTH,
        )
    return {kind: folder / names[0] for kind, names in found.items()}


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def _check_whole(folder: Path) -> None:
    """Refuse one of the two folders where the model was to be passed whole."""
    kind = _modality(folder)
    raw = read_json(folder / "config.json") if kind else {}
    whole = any(raw.get(name) for tower in (SPEECH, TEXT) for name in tower.configs)
    if kind is not None and not whole:
        other = "text" if kind == "speech" else "speech"
        raise MrlError(
            f"is the {kind} tower's folder alone, and there is no {other} tower in it",
            where=folder,
            hint=PASS_BOTH,
        )


def _modality(folder: Path) -> str | None:
    """ "speech" or "text", by the model type in the folder's config.json; None for another."""
    path = folder / "config.json"
    return _modalities().get(str(read_json(path).get("model_type"))) if path.is_file() else None


def _modalities() -> dict[str, str]:
    """What the towers of each model type read."""
    return {"qwen3": "text", **dict.fromkeys(SPEECH_FAMILIES, "speech")}
