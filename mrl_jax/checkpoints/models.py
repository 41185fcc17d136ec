"""A trained model on disk: what `Embedder.load` and `mrl-jax eval` read.

model.json     the model: towers by place and digest, dims, prompts, head; digests of itself and
               of the head's files, which loading verifies
head-STEP/     the trained arrays, in Orbax; or head.safetensors, in a model from the hub
search.json, search-*.npy  the search config of `mrl-jax eval tradeoff --budget` and the
               directions that it projects on, where there are such (`inference.search.config`)

model.json is replaced in one rename, so a folder always names a whole head. Towers stay
where they are; a path inside the folder or beside it is stored relative to it.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from mrl_jax.checkpoints.arrays import save_arrays
from mrl_jax.checkpoints.head_file import head_digests, read_head_arrays
from mrl_jax.checkpoints.towers import (
    LoadOptions,
    TowerInfo,
    abstract_tower,
    load_hubert_ctc,
    load_qwen3,
    load_speech_tower,
    read_info,
)
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import DTYPES, AnyArray, HostArray
from mrl_jax.core.checksums import verify_files
from mrl_jax.core.errors import MrlError, existing_file, write_hint
from mrl_jax.core.paths import referenced_path, relative_reference, user_path
from mrl_jax.core.records import as_record, read_record, readable_as, write_description
from mrl_jax.data.sets.digests import digest_lines
from mrl_jax.models.heads import HEADS, HeadKind
from mrl_jax.models.speech_tower import Padding
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree

FORMAT = 1
MODEL_FILE = "model.json"
TRAIN_AGAIN = "train the model again, or convert it again with `mrl-jax convert`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerReference:
    """A tower by its folder, relative to the model's, and by its `TowerInfo.digest`."""

    path: str
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The contents of model.json.

    Attributes:
        kind: one of `models.heads.HEADS`.
        speech, text: the frozen towers.
        fusion: a `HeadConfig` of that kind.
        padding: of the speech tower.
        dims: the prefixes that were trained.
        prompts: sentence of each task.
        max_text_tokens: longer texts lose their tail.
        head, head_digest: folder or file of the trained arrays inside this one, and their digest.
        step, scores: training steps behind them, and validation scores there.
        dtype: that the towers computed in; None for that of their weights.
        frozen_dtype: "int8" where the kernels of their layers were held in eight bits.
        files: SHA-256 of the head's files, by relative name; none in older models.
    """

    kind: str
    speech: TowerReference
    text: TowerReference
    fusion: Any
    padding: Padding
    dims: tuple[int, ...]
    prompts: Mapping[str, str]
    max_text_tokens: int
    head: str
    head_digest: str
    step: int
    scores: Mapping[str, float]
    dtype: str | None = None
    frozen_dtype: str = ""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.dims or not 1 <= min(self.dims) <= max(self.dims) < 1 << 31:
            raise ValueError(f"dims is {self.dims}, expected widths of 1 or more")
        if not 2 <= self.max_text_tokens < 1 << 31:
            raise ValueError(f"max_text_tokens is {self.max_text_tokens}, expected 2 or more")
        if self.head in ("", ".", "..") or Path(self.head).name != self.head:
            raise ValueError(f"head is {self.head!r}, expected a name in this folder")
        if self.step < 0:
            raise ValueError(f"step is {self.step}, expected 0 or more")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}, expected {' or '.join(DTYPES)}")
        if self.frozen_dtype not in ("", "int8"):
            raise ValueError(f"frozen_dtype is {self.frozen_dtype!r}, expected int8 or nothing")

    @property
    def digest(self) -> str:
        """SHA-256 of the towers and the head."""
        return digest_lines((self.speech.digest, self.text.digest, self.head_digest))


@checked
def tower_reference(tower: Path, model_folder: Path) -> TowerReference:
    """Reference to a tower folder, from a model's folder."""
    return TowerReference(
        path=relative_reference(tower, model_folder), digest=read_info(tower).digest
    )


@checked
def save_model(folder: Path, info: Mapping[str, Any], trained: Mapping[str, AnyArray]) -> ModelInfo:
    """Write the trained arrays (by dotted path), then model.json, then remove older heads.

    `info` holds the fields of `ModelInfo` other than `head` and `head_digest`.
    """
    arrays = {path: np.asarray(array) for path, array in trained.items()}
    digest = param_tree.digest(arrays)
    head = f"head-{info['step']:08d}-{digest[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / head).is_dir():
            partial = folder / f".{head}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                save_arrays(partial, arrays)
                os.rename(partial, folder / head)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        full = describe_model(folder, ModelInfo(**info, head=head, head_digest=digest))
    except OSError as error:
        raise MrlError(
            f"the model could not be written: {error.strerror or error}",
            where=folder,
            hint=write_hint(error),
        ) from error
    for old in folder.glob("head-*"):
        if old.name != head:
            shutil.rmtree(old, ignore_errors=True)
    return full


@checked
def describe_model(folder: Path, info: ModelInfo) -> ModelInfo:
    """Write model.json, with the digests of the head's files."""
    info = dataclasses.replace(info, files=head_digests(folder / info.head))
    write_description(folder / MODEL_FILE, dataclasses.asdict(info), version=FORMAT)
    return info


@checked
def read_model_info(folder: Path, *, sealed: bool = True) -> ModelInfo:
    """model.json, checked; refused where it was edited since, if it is to be `sealed`.

    Raises:
        MrlError: no such file, not a model, or damaged.
    """
    folder = user_path(folder)
    if (folder / "cascade.json").is_file() and not (folder / MODEL_FILE).exists():
        raise MrlError(
            "is a cascade, expected a trained model",
            where=folder,
            hint="measure it by `mrl-jax eval compare`",
        )
    path = existing_file(
        folder / MODEL_FILE,
        hint="pass a folder that `mrl-jax train` or `mrl-jax convert oolel-embed` made",
    )

    def parts(raw: dict[str, Any]) -> Mapping[str, Any]:
        if raw["kind"] not in HEADS:
            expected = " or ".join(map(repr, HEADS))
            raise ValueError(f"the kind is {raw['kind']!r}, expected {expected}")
        return {"fusion": as_record(raw["fusion"], HEADS[raw["kind"]].config)}

    return read_record(
        path,
        ModelInfo,
        version=FORMAT,
        what="a model description",
        hint=TRAIN_AGAIN,
        parts=parts,
        sealed=sealed,
    )


@checked
def load_model(
    folder: Path,
    info: ModelInfo,
    *,
    dtype: DTypeLike | None = None,
    int8: bool | None = None,
    verify: bool = True,
) -> TwoTowers:
    """The model with its towers and its trained head.

    Args:
        folder, info: the model's folder and its model.json.
        dtype: of the towers; the one trained with by default.
        int8: hold the kernels of their layers in eight bits; as in training by default.
        verify: compare all files with their digests first.

    Raises:
        MrlError: a tower is missing or is not the one trained with (both digests are
            named), or the head cannot be read.
    """
    read_towers(folder, info)
    kind, place = HEADS[info.kind], referenced_path(folder, info.speech.path)
    if verify:
        verify_head(folder, info)
    options: LoadOptions = {**_held_as(info, dtype, int8), "verify": verify}
    speech = load_speech_side(kind, place, padding=info.padding, **options)
    text = load_qwen3(referenced_path(folder, info.text.path), **options)
    with readable_as("a model description", folder / MODEL_FILE, hint=TRAIN_AGAIN):
        model = _abstract_head(kind, speech, text, info.fusion)
    model.place_towers(speech, text)
    if max(info.dims) > text.config.embed_width:
        problem = f"dims has {max(info.dims)}, expected at most {text.config.embed_width}"
        raise MrlError(problem, where=folder / MODEL_FILE, hint=TRAIN_AGAIN)
    _fill_head(model, folder, info)
    return model


@checked
def abstract_model(
    folder: Path, info: ModelInfo, *, dtype: DTypeLike | None = None, int8: bool | None = None
) -> TwoTowers:
    """What `load_model` gives, with shapes in place of weights: to compile before they are read.

    Raises:
        MrlError: as `load_model`, of the descriptions.
    """
    read_towers(folder, info)
    kind, options = HEADS[info.kind], _held_as(info, dtype, int8)
    speech = abstract_tower(
        referenced_path(folder, info.speech.path),
        recogniser=kind.recogniser,
        padding=info.padding,
        **options,
    )
    text = abstract_tower(referenced_path(folder, info.text.path), **options)
    with readable_as("a model description", folder / MODEL_FILE, hint=TRAIN_AGAIN):
        return _abstract_head(kind, speech, text, info.fusion)


def _held_as(info: ModelInfo, dtype: DTypeLike | None, int8: bool | None) -> LoadOptions:
    """How the towers' weights are held: as asked for, or as in training."""
    return {
        "dtype": info.dtype if dtype is None else dtype,
        "int8": info.frozen_dtype == "int8" if int8 is None else int8,
    }


def _abstract_head(kind: HeadKind, speech: Any, text: Any, config: Any) -> TwoTowers:
    """A model of shapes: to draw weights that are replaced takes a second of compilation."""
    return nnx.eval_shape(
        lambda speech, text: kind.build(speech, text, config, rngs=nnx.Rngs(0)), speech, text
    )


@checked
def read_towers(folder: Path, info: ModelInfo) -> dict[str, TowerInfo]:
    """tower.json of a model's towers, "speech" and "text".

    Raises:
        MrlError: a tower is missing, or is not the one trained with (both digests are named).
    """
    towers = {}
    for name, tower in (("speech", info.speech), ("text", info.text)):
        path = referenced_path(folder, tower.path)
        towers[name] = read_info(path)
        if not towers[name].is_named(tower.digest):
            raise MrlError(
                f"is not the {name} tower that the model was trained with: its digest is "
                f"{towers[name].digest[:12]}, expected {tower.digest[:12]}",
                where=path,
                hint="bring the tower of the training run back",
            )
    return towers


@checked
def verify_head(folder: Path, info: ModelInfo) -> None:
    """Compare the head's files with their digests.

    Raises:
        MrlError: a file is missing, or is another than the one that was written.
    """
    verify_files(folder, info.files, named_by=MODEL_FILE, hint=TRAIN_AGAIN)


@checked
def load_speech_side(kind: HeadKind, folder: str | Path, **options: Any) -> Any:
    """What a kind of head reads speech with: a speech tower, or one with its CTC layer."""
    load = load_hubert_ctc if kind.recogniser else load_speech_tower
    return load(folder, **options)


@checked
def read_head(
    folder: Path, info: ModelInfo, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, HostArray]:
    """The trained arrays by path, which must be those of `shapes`.

    Raises:
        MrlError: they cannot be read, are of other shapes, or are not those of model.json.
    """
    place = folder / info.head
    arrays = read_head_arrays(place, shapes, hint=TRAIN_AGAIN)
    stored = {path: array.shape for path, array in arrays.items()}
    other = next((p for p in {**shapes, **stored} if shapes.get(p) != stored.get(p)), None)
    problem = None
    if other is not None:
        is_there, ours = (of.get(other, "absent") for of in (stored, shapes))
        problem = f"is of another architecture: {other} is {is_there}, expected {ours}"
    elif param_tree.digest(arrays) != info.head_digest:
        problem = "is not the one that model.json names (its digest differs)"
    if problem:
        raise MrlError(f"the trained head {problem}", where=place, hint=TRAIN_AGAIN)
    return arrays


def _fill_head(model: TwoTowers, folder: Path, info: ModelInfo) -> None:
    leaves = {
        path: variable
        for path, variable in param_tree.flat_weights(model).items()
        if isinstance(variable, nnx.Param)
    }
    arrays = read_head(folder, info, {path: leaf.shape for path, leaf in leaves.items()})
    for path, variable in leaves.items():
        variable.set_value(jax.numpy.asarray(arrays[path]))
    for factor in model.head.factors().values():  # They are in the weights, see `Head.fold`.
        factor.set_value(jax.numpy.ones(factor.shape, factor.dtype))
