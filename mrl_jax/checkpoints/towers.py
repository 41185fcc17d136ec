"""Converted towers on disk: one folder a tower, its weights in Orbax.

tower.json     kind, config, dtype, and the digests of itself and of all other files, which
               loading verifies
weights/       one Orbax checkpoint a group: `encoder`, and where there are such
               tensors `lm_head` (a recogniser's output layer) and `unused_tensors`
               (published tensors that no module computes with, kept for export)
config.json, tokenizer.json, ...   the published files, unchanged
report.json    what was converted, and how
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mrl_jax.checkpoints.arrays import save_arrays
from mrl_jax.checkpoints.mapped_arrays import read_mapped, read_to_device
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.checksums import fields_digest, folder_digests, update_hint, verify_files
from mrl_jax.core.config import to_json
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.core.paths import user_path
from mrl_jax.core.records import as_record, read_record, readable_as, write_description
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc
from mrl_jax.models.hubert import HubertConfig, HubertEncoder
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.models.speech_tower import Padding, SpeechTower
from mrl_jax.models.towers import RECOGNISERS, TOWERS, describe_kinds, kinds_of
from mrl_jax.nn import param_tree
from mrl_jax.nn.int8 import is_layer_kernel, quantize

FORMAT = 1
TOWER_FILE = "tower.json"
WEIGHTS = "weights"
GROUPS = ("encoder", "lm_head", "unused_tensors")
REPORTS = ("report.json", "verification.json")
"""Files of a tower's folder that no loading reads."""
_DTYPES = ("float32", "bfloat16", "float16", "mixed")
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
        digest: of the weights, and of all that is computed with them: kind, config, vocabulary.
            Names a tower wherever it must be the same.
        weights_digest: `param_tree.digest` over all groups; "" in towers from before there was
            another, whose `digest` it is.
        groups: shapes of the stored weights by group, then by path.
        naming: how the published checkpoint spelled its tensor names, for export.
        vocabulary: characters of a recogniser, if its checkpoint had them.
        labels: classes (intents) whose labels some training of it used, which are then not
            unseen.
        files: SHA-256 of every file that loading may read, by relative name; none in towers from
            before there were such.
    """

    kind: str
    config: Any
    dtype: str
    digest: str
    groups: Mapping[str, Mapping[str, tuple[int, ...]]]
    naming: Mapping[str, Any]
    vocabulary: CtcVocabulary | None = None
    labels: tuple[str, ...] = ()
    weights_digest: str = ""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}, expected {', '.join(_DTYPES)}")
        if "encoder" not in self.groups or not set(self.groups) <= set(GROUPS):
            raise ValueError(f"groups are {sorted(self.groups)}, expected some of {GROUPS}")
        for group, shapes in self.groups.items():
            for path, shape in shapes.items():
                if min(shape, default=0) < 0 or math.prod(shape) >= 1 << 40:
                    raise ValueError(f"{group} {path} has the shape {shape}")

    def is_named(self, digest: str) -> bool:
        """Whether a digest is this tower's; older models name the weights alone."""
        return digest in (self.digest, self.weights_digest or self.digest)


class LoadOptions(TypedDict, total=False):
    """How a tower is loaded; what every load function takes by keyword.

    Attributes:
        dtype: of weights and computation; that of the stored weights by default.
        remat, unroll: see `nn.layer_stack.run_layers`.
        trainable: leave the weights as `nnx.Param`; by default they are `Frozen`.
        sharding: where every weight goes; JAX's default device by default.
        int8: hold the kernels of the layers in eight bits, see `nn.int8`: half of bfloat16's
            memory for a large tower, computed in `dtype`.
        verify: compare the files with their digests while they are read, which takes reading them
            once more and hashing them (see docs/models.md). tower.json is always compared.
    """

    dtype: DTypeLike | None
    remat: bool
    unroll: bool
    trainable: bool
    sharding: jax.sharding.Sharding | None
    int8: bool
    verify: bool


@checked
def load_qwen3(folder: str | Path, **options: Unpack[LoadOptions]) -> Qwen3Encoder:
    """A Qwen3 text tower from a folder made by `mrl-jax convert qwen3`.

    Raises:
        MrlError: the folder is not a Qwen3 tower, cannot be read whole, or was changed.
    """
    return load_tower(folder, kinds_of(Qwen3Config), **options)


@checked
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


@checked
def load_hubert_ctc(
    folder: str | Path, *, padding: Padding = "masked", **options: Unpack[LoadOptions]
) -> HubertCtc:
    """A speech recogniser with its output layer and vocabulary; arguments as `load_hubert`.

    Raises:
        MrlError: the folder holds no recogniser, or cannot be read whole.
    """
    return load_tower(folder, RECOGNISERS, recogniser=True, padding=padding, **options)


@checked
def load_speech_tower(
    folder: str | Path, *, padding: Padding = "masked", **options: Unpack[LoadOptions]
) -> SpeechTower:
    """A speech tower of any kind in `models.towers.TOWERS`; arguments as `load_hubert`."""
    return load_tower(folder, kinds_of("speech"), padding=padding, **options)


@checked
def load_tower(
    folder: str | Path,
    expected: tuple[str, ...] = tuple(TOWERS),
    *,
    recogniser: bool = False,
    dtype: DTypeLike | None = None,
    trainable: bool = False,
    sharding: jax.sharding.Sharding | None = None,
    int8: bool = False,
    verify: bool = True,
    **options: Any,
) -> Any:
    """A tower of any of the `expected` kinds: what the functions above do.

    Args:
        folder: the converted tower.
        expected: kinds that are accepted.
        recogniser: load the output layer as well.
        dtype, trainable, sharding, int8, verify: see `LoadOptions`.
        options: for the module's constructor: padding, remat, unroll.

    Raises:
        MrlError: `int8` weights that are `trainable`; as the functions above.
    """
    folder = user_path(folder)
    if int8 and trainable:
        hint = "load it in float32 or bfloat16"
        raise MrlError("weights in int8 cannot be trained", where=folder, hint=hint)
    info = read_info(folder, expected=expected)
    held = _held_dtype(info, dtype)
    module = _abstract(folder, info, recogniser, {**options, "dtype": held, "param_dtype": held})
    groups = ("encoder", "lm_head") if recogniser else ("encoder",)

    def read() -> dict[str, Any]:
        if not recogniser:
            return _restore(folder, "encoder", module, held, sharding)
        parts = (_restore(folder, name, getattr(module, name), held, sharding) for name in groups)
        return param_tree.flatten(dict(zip(groups, parts, strict=True)))

    weights = _verified(lambda: verify_tower(folder, info, groups), read) if verify else read()
    if int8:
        for path in filter(is_layer_kernel, list(weights)):  # One at a time, for the memory.
            weights[path] = quantize(weights[path])
    filled = param_tree.fill(module, weights)
    return filled if trainable else param_tree.freeze(filled)


@checked
def abstract_tower(
    folder: str | Path,
    *,
    recogniser: bool = False,
    dtype: DTypeLike | None = None,
    int8: bool = False,
    **options: Any,
) -> Any:
    """What `load_tower` gives, with shapes in place of weights: to compile before they are read.

    Raises:
        MrlError: as `load_tower`, of tower.json.
    """
    folder = user_path(folder)
    info = read_info(folder)
    held = _held_dtype(info, dtype)
    module = _abstract(folder, info, recogniser, {**options, "dtype": held, "param_dtype": held})
    for path, variable in param_tree.flat_weights(module).items():
        if int8 and is_layer_kernel(path):
            variable.set_value(jax.eval_shape(quantize, variable.get_value()))
    return param_tree.freeze(module)


def _held_dtype(info: TowerInfo, dtype: DTypeLike | None) -> DTypeLike:
    """The dtype asked for, or that of the stored weights."""
    if dtype is not None:
        return dtype
    return jnp.float32 if info.dtype == "mixed" else jnp.dtype(info.dtype)


def _verified(verify: Callable[[], None], read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `read` gives, with `verify` beside it: where both fail, its error is the one raised."""
    with ThreadPoolExecutor(1) as pool:
        verified = pool.submit(verify)
        try:
            weights = read()
        except MrlError:
            verified.result()
            raise
        verified.result()
    return weights


def _abstract(folder: Path, info: TowerInfo, recogniser: bool, options: Mapping[str, Any]) -> Any:
    """The module with shapes in place of weights, which must be those that tower.json names.

    Raises:
        MrlError: the sizes in tower.json are not those of the weights.
    """
    kind, where = TOWERS[info.kind], folder / TOWER_FILE
    with readable_as("a tower description", where, hint=CONVERT_AGAIN):
        if recogniser:
            if kind.abstract_recogniser is None or "lm_head" not in info.groups:
                raise ValueError("there is no output layer")
            outputs = info.groups["lm_head"]["kernel"][-1]
            module = kind.abstract_recogniser(
                info.config, outputs, vocabulary=info.vocabulary, **options
            )
            parts = {"encoder": module.encoder, "lm_head": module.lm_head}
        else:
            module = kind.abstract(info.config, **options)
            parts = {"encoder": module}
    for group, part in parts.items():
        leaves = {path: leaf.shape for path, leaf in param_tree.flat_weights(part).items()}
        check_shapes(info.groups.get(group, {}), leaves, where=where)
    return module


@checked
def check_sizes(folder: Path, info: TowerInfo) -> None:
    """Refuse a tower.json whose sizes are not those of its weights.

    Raises:
        MrlError: they are not.
    """
    _abstract(folder, info, "lm_head" in info.groups and info.kind in RECOGNISERS, {})


@checked
def check_shapes(
    stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, where: Path
) -> None:
    """Refuse weights whose shapes are not those that the sizes of a config give.

    Raises:
        MrlError: naming the first that differs.
    """
    for path in {**expected, **stored}:
        ours, theirs = expected.get(path), stored.get(path)
        if ours != theirs:
            problem = f"its sizes make {path} {ours or 'absent'}, and the weights have it "
            raise MrlError(
                f"{problem}{'not at all' if theirs is None else f'as {theirs}'}",
                where=where,
                hint=CONVERT_AGAIN,
            )


@checked
def verify_tower(folder: Path, info: TowerInfo, groups: Sequence[str] = GROUPS) -> None:
    """Compare the small files of a tower, and the weights of some groups, with their digests.

    Raises:
        MrlError: a file is missing, or is another than the one that was written.
    """
    others = tuple(f"{WEIGHTS}/{group}/" for group in GROUPS if group not in groups)
    verify_files(
        folder,
        info.files,
        lambda name: not name.startswith(others),
        named_by=TOWER_FILE,
        hint=CONVERT_AGAIN,
    )


@checked
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
    return describe_tower(
        folder,
        kind=kind,
        config=config,
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        groups={
            group: {path: tuple(array.shape) for path, array in arrays.items()}
            for group, arrays in weights.items()
        },
        naming=naming,
        vocabulary=vocabulary,
        labels=tuple(labels),
        weights_digest=weights_digest(weights),
    )


@checked
def describe_tower(folder: Path, **fields: Any) -> TowerInfo:
    """Write tower.json, with the digests of the files that are in `folder`.

    `fields` are those of `TowerInfo` but for `digest` and `files`, which are computed.
    """
    info = TowerInfo(
        **fields,
        digest=_tower_digest(**fields),
        files=folder_digests(folder, lambda name: name not in (TOWER_FILE, *REPORTS)),
    )
    write_description(folder / TOWER_FILE, dataclasses.asdict(info), version=FORMAT)
    return info


def _tower_digest(
    *, kind: str, config: Any, vocabulary: CtcVocabulary | None, weights_digest: str, **_: Any
) -> str:
    """Digest of the weights and of what is computed with them.

    Of the config without what has its default, so that a field that is new does not change it.
    """
    sizes = {
        field.name: value
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) != field.default
    }
    parts = {"kind": kind, "config": to_json(sizes), "vocabulary": to_json(vocabulary)}
    return fields_digest({"weights": weights_digest, **parts})


@checked
def weights_digest(weights: Weights) -> str:
    """Digest over all groups."""
    return param_tree.digest(param_tree.flatten(weights))


@checked
def read_info(
    folder: Path, *, expected: tuple[str, ...] = tuple(TOWERS), sealed: bool = True
) -> TowerInfo:
    """tower.json, checked; refused where it was edited since, if it is to be `sealed`.

    Raises:
        MrlError: no such file, not a tower of an `expected` kind, or damaged.
    """
    path = existing_file(
        user_path(folder) / TOWER_FILE,
        hint="make a tower folder with `mrl-jax convert qwen3|speech SOURCE OUT`",
    )

    def parts(raw: dict[str, Any]) -> Mapping[str, Any]:
        return {"config": as_record(raw["config"], TOWERS[raw["kind"]].config)}

    info = read_record(
        path,
        TowerInfo,
        version=FORMAT,
        what="a tower description",
        hint=CONVERT_AGAIN,
        parts=parts,
        sealed=sealed,
    )
    if sealed and info.weights_digest and info.digest != _tower_digest(**vars(info)):
        problem = "its digest is not that of its weights and sizes, which were changed"
        raise MrlError(problem, where=path, hint=update_hint(folder, CONVERT_AGAIN))
    if info.kind not in expected:
        raise MrlError(
            f"is a {info.kind} tower, expected {describe_kinds(expected)}",
            where=folder,
            hint="pass the other tower, or load it with its own function",
        )
    return info


@checked
def read_checked_weights(folder: Path, info: TowerInfo) -> dict[str, dict[str, HostArray]]:
    """All stored arrays in host memory, in their stored dtypes.

    Raises:
        MrlError: the weights cannot be read, or are not those that tower.json names.
    """
    weights = read_stored_weights(folder, info)
    if weights_digest(weights) != (info.weights_digest or info.digest):
        raise MrlError(
            "the weights are not those that tower.json names (their digests differ)",
            where=folder,
            hint=update_hint(folder, CONVERT_AGAIN),
        )
    return weights


@checked
def read_stored_weights(folder: Path, info: TowerInfo) -> dict[str, dict[str, HostArray]]:
    """All stored arrays, whatever they are.

    Raises:
        MrlError: they cannot be read.
    """
    return {
        group: read_mapped(
            user_path(folder) / WEIGHTS / group,
            shapes,
            shapes=shapes,
            what="the weights",
            hint=CONVERT_AGAIN,
        )
        for group, shapes in info.groups.items()
    }


def _restore(
    folder: Path,
    group: str,
    module: nnx.Module,
    dtype: DTypeLike,
    sharding: jax.sharding.Sharding | None,
) -> dict[str, jax.Array]:
    """A group's arrays, cast and placed, for the leaves of an abstract module."""
    leaves = param_tree.flat_weights(module)
    return read_to_device(
        folder / WEIGHTS / group,
        {path: variable.shape for path, variable in leaves.items()},
        dtype=dtype,
        sharding=jnp.zeros(()).sharding if sharding is None else sharding,
        what="the weights",
        hint=CONVERT_AGAIN,
    )
