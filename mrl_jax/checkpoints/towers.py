"""Converted towers on disk: one folder a tower, its weights in Orbax.

tower.json     kind, config, dtype and digest: all that loading reads beside weights
weights/       one Orbax checkpoint a group: `encoder`, and where there are such
               tensors `lm_head` (a recogniser's output layer) and `unused_tensors`
               (published tensors that no module computes with, kept for export)
config.json, tokenizer.json, ...   the published files, as they were
report.json    how the weights came here
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from mrl_jax.checkpoints.arrays import read_arrays, save_arrays
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc, abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig, HubertEncoder, Padding, abstract_hubert
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder, abstract_qwen3
from mrl_jax.nn import param_tree

FORMAT = 1


TOWER_FILE = "tower.json"


WEIGHTS = "weights"


CONFIG_TYPES: dict[str, type[Qwen3Config] | type[HubertConfig]] = {
    "qwen3": Qwen3Config,
    "hubert": HubertConfig,
    "hubert_ctc": HubertConfig,
}


CONVERT_AGAIN = "convert the checkpoint again with `python -m converters`"


Module = TypeVar("Module", bound=nnx.Module)


Weights = Mapping[str, Mapping[str, HostArray]]
"""Arrays by group (`encoder`, `lm_head`, `unused_tensors`), then by dotted path."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerInfo:
    """The contents of tower.json.

    Attributes:
        kind: "qwen3", "hubert" or "hubert_ctc".
        config: sizes and variants of the encoder.
        dtype: dtype the weights are stored in; "mixed" if they differ.
        digest: `param_tree.digest` over all groups.
        groups: shapes of the stored weights by group, then by path.
        naming: how the published checkpoint spelled its tensor names, for export.
        vocabulary: characters of a recogniser, if its checkpoint had them.
    """

    kind: str
    config: Qwen3Config | HubertConfig
    dtype: str
    digest: str
    groups: Mapping[str, Mapping[str, tuple[int, ...]]]
    naming: Mapping[str, Any]
    vocabulary: CtcVocabulary | None = None


def load_qwen3(
    folder: str | Path,
    *,
    dtype: DTypeLike | None = None,
    remat: bool = False,
    unroll: bool = False,
    trainable: bool = False,
    sharding: jax.sharding.Sharding | None = None,
) -> Qwen3Encoder:
    """A Qwen3 text tower from a folder made by `python -m converters qwen3`.

    Args:
        folder: the converted tower.
        dtype: dtype of weights and computation; that of the stored weights by default.
        remat: recompute each layer in the backward pass.
        unroll: compile every layer on its own.
        trainable: leave the weights as `nnx.Param`; by default they are `Frozen`.
        sharding: where every weight goes; JAX's default device by default.

    Raises:
        MrlError: the folder is not a Qwen3 tower, or cannot be read whole. (Single changed
            bits are found by `read_checked_weights`, as `verify` and `export` do.)
    """
    folder = Path(folder)
    info = read_info(folder, expected=("qwen3",))
    dtype = _stored_dtype(info) if dtype is None else dtype
    assert isinstance(info.config, Qwen3Config)
    module = abstract_qwen3(info.config, dtype=dtype, param_dtype=dtype, remat=remat, unroll=unroll)
    return _filled(module, {"": _restore(folder, "encoder", module, dtype, sharding)}, trainable)


def load_hubert(
    folder: str | Path,
    *,
    padding: Padding = "masked",
    dtype: DTypeLike | None = None,
    remat: bool = False,
    unroll: bool = False,
    trainable: bool = False,
    sharding: jax.sharding.Sharding | None = None,
) -> HubertEncoder:
    """A HuBERT speech tower from a folder made by `python -m converters hubert`.

    A recogniser's folder serves as well: its output layer is left out.

    Args:
        folder: the converted tower.
        padding: "masked", or "reference" to read padding as speech.
        dtype: dtype of weights and computation; that of the stored weights by default.
        remat: recompute each layer in the backward pass.
        unroll: compile every layer on its own.
        trainable: leave the weights as `nnx.Param`; by default they are `Frozen`.
        sharding: where every weight goes; JAX's default device by default.

    Raises:
        MrlError: the folder is not a HuBERT tower, or cannot be read whole.
    """
    folder = Path(folder)
    info = read_info(folder, expected=("hubert", "hubert_ctc"))
    dtype = _stored_dtype(info) if dtype is None else dtype
    assert isinstance(info.config, HubertConfig)
    module = abstract_hubert(
        info.config, padding=padding, dtype=dtype, param_dtype=dtype, remat=remat, unroll=unroll
    )
    return _filled(module, {"": _restore(folder, "encoder", module, dtype, sharding)}, trainable)


def load_hubert_ctc(
    folder: str | Path,
    *,
    padding: Padding = "masked",
    dtype: DTypeLike | None = None,
    remat: bool = False,
    unroll: bool = False,
    trainable: bool = False,
    sharding: jax.sharding.Sharding | None = None,
) -> HubertCtc:
    """A speech recogniser with its output layer and vocabulary; arguments as `load_hubert`.

    Raises:
        MrlError: the folder holds no recogniser, or cannot be read whole.
    """
    folder = Path(folder)
    info = read_info(folder, expected=("hubert_ctc",))
    dtype = _stored_dtype(info) if dtype is None else dtype
    assert isinstance(info.config, HubertConfig)
    module = abstract_hubert_ctc(
        info.config,
        info.groups["lm_head"]["kernel"][-1],
        vocabulary=info.vocabulary,
        padding=padding,
        dtype=dtype,
        param_dtype=dtype,
        remat=remat,
        unroll=unroll,
    )
    parts = {
        "encoder.": _restore(folder, "encoder", module.encoder, dtype, sharding),
        "lm_head.": _restore(folder, "lm_head", module.lm_head, dtype, sharding),
    }
    return _filled(module, parts, trainable)


def save_tower(
    folder: Path,
    kind: str,
    config: Qwen3Config | HubertConfig,
    weights: Weights,
    *,
    naming: Mapping[str, Any],
    vocabulary: CtcVocabulary | None = None,
) -> TowerInfo:
    """Write tower.json and the weights into `folder` (a staged one); memory beyond the
    weights stays small, because nothing is copied or compressed on the way."""
    for group, arrays in weights.items():
        save_arrays(folder / WEIGHTS / group, arrays)
    dtypes = {array.dtype.name for arrays in weights.values() for array in arrays.values()}
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
    )
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(info)}, indent=1)
    (folder / TOWER_FILE).write_text(text + "\n", encoding="utf-8")
    return info


def weights_digest(weights: Weights) -> str:
    """Digest over all groups; names a frozen tower wherever one must be the same."""
    return param_tree.digest(
        {
            f"{group}.{path}": array
            for group, arrays in weights.items()
            for path, array in arrays.items()
        }
    )


def read_info(folder: Path, *, expected: tuple[str, ...] = tuple(CONFIG_TYPES)) -> TowerInfo:
    """tower.json, checked.

    Raises:
        MrlError: no such file, not a tower of an `expected` kind, or damaged.
    """
    path = existing_file(
        Path(folder) / TOWER_FILE,
        hint="make a tower folder with `python -m converters qwen3|hubert SOURCE OUT`",
    )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT}")
        config_type = CONFIG_TYPES[raw["kind"]]
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in raw.pop("config").items()
        }
        config = config_type(**fields)
        vocabulary = raw.pop("vocabulary")
        if vocabulary is not None:
            vocabulary = CtcVocabulary(**{**vocabulary, "tokens": tuple(vocabulary["tokens"])})
        groups = {
            group: {name: tuple(shape) for name, shape in shapes.items()}
            for group, shapes in raw.pop("groups").items()
        }
        info = TowerInfo(config=config, vocabulary=vocabulary, groups=groups, **raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MrlError(
            f"cannot be read as a tower description ({error})", where=path, hint=CONVERT_AGAIN
        ) from error
    if info.kind not in expected:
        raise MrlError(
            f"is a {info.kind} tower, expected {' or '.join(expected)}",
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
        weights[group] = _read_group(Path(folder), group, restore_args)
    if weights_digest(weights) != info.digest:
        raise MrlError(
            "the weights are not those that tower.json names (their digests differ)",
            where=folder,
            hint=CONVERT_AGAIN,
        )
    return weights


def _stored_dtype(info: TowerInfo) -> DTypeLike:
    return jnp.float32 if info.dtype == "mixed" else jnp.dtype(info.dtype)


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
    if not path.is_dir():
        raise MrlError("the weights are missing", where=path, hint=CONVERT_AGAIN)
    try:
        return read_arrays(path, restore_args)
    except OSError as error:
        raise MrlError(
            f"the weights cannot be read ({error.strerror or error})",
            where=path,
            hint=CONVERT_AGAIN,
        ) from error


def _filled(
    module: Module, parts: Mapping[str, Mapping[str, jax.Array]], trainable: bool
) -> Module:
    """Put restored arrays into an abstract module, then freeze it unless it is to be trained."""
    arrays = {
        prefix + path: array for prefix, part in parts.items() for path, array in part.items()
    }
    graphdef, state = nnx.split(module)
    flat = [
        (path, variable.replace(arrays[".".join(map(str, path))]))
        for path, variable in nnx.to_flat_state(state)
    ]
    filled = nnx.merge(graphdef, nnx.from_flat_state(flat))
    return filled if trainable else param_tree.freeze(filled)
