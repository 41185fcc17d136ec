"""Converted towers on disk: one folder a tower, its weights in Orbax.

tower.json     kind, config, dtype and digest: all that loading reads beside weights
weights/       one Orbax checkpoint a group: `encoder`, and where there are such
               tensors `lm_head` (a recogniser's output layer) and `unused_tensors`
               (published tensors that no module computes with, kept for export)
config.json, tokenizer.json, ...   the published files, unchanged
report.json    what was converted, and how
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from mrl_jax.checkpoints.arrays import read_arrays, save_arrays
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.core.files import write_json
from mrl_jax.core.paths import user_path
from mrl_jax.core.records import as_record, read_object, readable_as
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc
from mrl_jax.models.hubert import HubertConfig, HubertEncoder
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.models.speech_tower import Padding, SpeechTower
from mrl_jax.models.towers import RECOGNISERS, TOWERS, describe_kinds, kinds_of
from mrl_jax.nn import param_tree

FORMAT = 1
TOWER_FILE = "tower.json"
WEIGHTS = "weights"
CONVERT_AGAIN = "convert the checkpoint again with `mrl-jax convert`"
Weights = Mapping[str, Mapping[str, HostArray]]
"""Arrays by group (`encoder`, `lm_head`, `unused_tensors`), then by dotted path."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerInfo:
    """The contents of tower.json.

    Attributes:
        kind: one of `models.towers.TOWERS`.
        config: sizes and variants of the encoder, of the kind's config class.
        dtype: dtype the weights are stored in; "mixed" if they differ.
        digest: `param_tree.digest` over all groups.
        groups: shapes of the stored weights by group, then by path.
        naming: how the published checkpoint spelled its tensor names, for export.
        vocabulary: characters of a recogniser, if its checkpoint had them.
        labels: classes (intents) whose labels some training of it used, which are then not
            unseen.
    """

    kind: str
    config: Any
    dtype: str
    digest: str
    groups: Mapping[str, Mapping[str, tuple[int, ...]]]
    naming: Mapping[str, Any]
    vocabulary: CtcVocabulary | None = None
    labels: tuple[str, ...] = ()


class LoadOptions(TypedDict, total=False):
    """How a tower is loaded; what every load function takes by keyword.

    Attributes:
        dtype: of weights and computation; that of the stored weights by default.
        remat, unroll: see `nn.layer_stack.run_layers`.
        trainable: leave the weights as `nnx.Param`; by default they are `Frozen`.
        sharding: where every weight goes; JAX's default device by default.
    """

    dtype: DTypeLike | None
    remat: bool
    unroll: bool
    trainable: bool
    sharding: jax.sharding.Sharding | None


def load_qwen3(folder: str | Path, **options: Unpack[LoadOptions]) -> Qwen3Encoder:
    """A Qwen3 text tower from a folder made by `mrl-jax convert qwen3`.

    Raises:
        MrlError: the folder is not a Qwen3 tower, or cannot be read whole. (Single changed
            bits are found by `read_checked_weights`, as `verify` and `export` do.)
    """
    return load_tower(folder, kinds_of(Qwen3Config), **options)


def load_hubert(
    folder: str | Path, *, padding: Padding = "masked", **options: Unpack[LoadOptions]
) -> HubertEncoder:
    """A speech tower of HuBERT's kin from a folder made by `mrl-jax convert speech`.

    wav2vec 2.0, XLS-R, MMS and UniSpeech-SAT are the same encoder; WavLM's is one with a gated
    bias. A recogniser's folder serves as well: its output layer is left out.

    Raises:
        MrlError: the folder is not such a tower, or cannot be read whole.
    """
    return load_tower(folder, kinds_of(HubertConfig), padding=padding, **options)


def load_hubert_ctc(
    folder: str | Path, *, padding: Padding = "masked", **options: Unpack[LoadOptions]
) -> HubertCtc:
    """A speech recogniser with its output layer and vocabulary; arguments as `load_hubert`.

    Raises:
        MrlError: the folder holds no recogniser, or cannot be read whole.
    """
    return load_tower(folder, RECOGNISERS, recogniser=True, padding=padding, **options)


def load_speech_tower(
    folder: str | Path, *, padding: Padding = "masked", **options: Unpack[LoadOptions]
) -> SpeechTower:
    """A speech tower of any kind in `models.towers.TOWERS`; arguments as `load_hubert`."""
    return load_tower(folder, kinds_of("speech"), padding=padding, **options)


def load_tower(
    folder: str | Path,
    expected: tuple[str, ...] = tuple(TOWERS),
    *,
    recogniser: bool = False,
    dtype: DTypeLike | None = None,
    trainable: bool = False,
    sharding: jax.sharding.Sharding | None = None,
    **options: Any,
) -> Any:
    """A tower of any of the `expected` kinds: what the functions above do.

    Args:
        folder: the converted tower.
        expected: kinds that are accepted.
        recogniser: load the output layer as well.
        dtype, trainable, sharding: see `LoadOptions`.
        options: for the module's constructor: padding, remat, unroll.
    """
    folder = user_path(folder)
    info = read_info(folder, expected=expected)
    kind = TOWERS[info.kind]
    stored = jnp.float32 if info.dtype == "mixed" else jnp.dtype(info.dtype)
    held: DTypeLike = stored if dtype is None else dtype
    options |= {"dtype": held, "param_dtype": held}
    if recogniser:
        assert kind.abstract_recogniser is not None
        outputs = info.groups["lm_head"]["kernel"][-1]
        module = kind.abstract_recogniser(
            info.config, outputs, vocabulary=info.vocabulary, **options
        )
        groups = ("encoder", "lm_head")
        read = (_restore(folder, group, getattr(module, group), held, sharding) for group in groups)
        arrays = param_tree.flatten(dict(zip(groups, read, strict=True)))
    else:
        module = kind.abstract(info.config, **options)
        arrays = _restore(folder, "encoder", module, held, sharding)
    filled = param_tree.fill(module, arrays)
    return filled if trainable else param_tree.freeze(filled)


def save_tower(
    folder: Path,
    kind: str,
    config: Any,
    weights: Weights,
    *,
    naming: Mapping[str, Any],
    vocabulary: CtcVocabulary | None = None,
    labels: Sequence[str] = (),
) -> TowerInfo:
    """Write tower.json and the weights into `folder` (a staged one); memory beyond the
    weights stays small, because nothing is copied or compressed on the way."""
    for group, arrays in weights.items():
        save_arrays(folder / WEIGHTS / group, arrays)
    kinds = {array.dtype for arrays in weights.values() for array in arrays.values()}
    dtypes = {kind.name for kind in kinds if kind.kind not in "iub"}  # Counters are no weights.
    info = TowerInfo(
        kind=kind,
        config=config,
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        digest=weights_digest(weights),
        groups={
            group: {path: tuple(array.shape) for path, array in arrays.items()}
            for group, arrays in weights.items()
        },
        naming=naming,
        vocabulary=vocabulary,
        labels=tuple(labels),
    )
    write_json(folder / TOWER_FILE, {"format": FORMAT, **dataclasses.asdict(info)})
    return info


def weights_digest(weights: Weights) -> str:
    """Digest over all groups; names a frozen tower wherever one must be the same."""
    return param_tree.digest(param_tree.flatten(weights))


def read_info(folder: Path, *, expected: tuple[str, ...] = tuple(TOWERS)) -> TowerInfo:
    """tower.json, checked.

    Raises:
        MrlError: no such file, not a tower of an `expected` kind, or damaged.
    """
    path = existing_file(
        user_path(folder) / TOWER_FILE,
        hint="make a tower folder with `mrl-jax convert qwen3|speech SOURCE OUT`",
    )
    with readable_as("a tower description", path, hint=CONVERT_AGAIN):
        raw = read_object(path, version=FORMAT)
        config = as_record(raw["config"], TOWERS[raw["kind"]].config)
        info = dataclasses.replace(as_record(raw, TowerInfo), config=config)
    if info.kind not in expected:
        raise MrlError(
            f"is a {info.kind} tower, expected {describe_kinds(expected)}",
            where=folder,
            hint="pass the other tower, or load it with its own function",
        )
    return info


def read_checked_weights(folder: Path, info: TowerInfo) -> dict[str, dict[str, HostArray]]:
    """All stored arrays in host memory, in their stored dtypes.

    Raises:
        MrlError: the weights cannot be read, or are not those that tower.json names.
    """
    import orbax.checkpoint as ocp

    weights: dict[str, dict[str, HostArray]] = {}
    for group, shapes in info.groups.items():
        restore_args = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in shapes}
        weights[group] = _read_group(user_path(folder), group, restore_args)
    if weights_digest(weights) != info.digest:
        raise MrlError(
            "the weights are not those that tower.json names (their digests differ)",
            where=folder,
            hint=CONVERT_AGAIN,
        )
    return weights


def _restore(
    folder: Path,
    group: str,
    module: nnx.Module,
    dtype: DTypeLike,
    sharding: jax.sharding.Sharding | None,
) -> dict[str, jax.Array]:
    """A group's arrays, cast and placed, for the leaves of an abstract module."""
    import orbax.checkpoint as ocp

    sharding = jnp.zeros(()).sharding if sharding is None else sharding
    restore_args = {
        path: ocp.ArrayRestoreArgs(
            restore_type=jax.Array,
            dtype=jnp.dtype(dtype),
            sharding=sharding,
            global_shape=variable.shape,
            strict=True,
        )
        for path, variable in param_tree.flat_weights(module).items()
    }
    return _read_group(folder, group, restore_args)


def _read_group(folder: Path, group: str, restore_args: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / WEIGHTS / group
    return read_arrays(path, restore_args, what="the weights", hint=CONVERT_AGAIN)
