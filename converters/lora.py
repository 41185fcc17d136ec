"""LoRA adapters as PEFT saves them, merged into the weights of a Qwen3 tower.

Sources: Hu et al., 2021 (arXiv 2106.09685): W + α/r · B A; rank-stabilised LoRA (arXiv
2312.03732): W + α/√r · B A; and PEFT's files adapter_config.json and adapter_model.safetensors.
"""

import contextlib
import dataclasses
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.core.hub import HUB_ID
from mrl_jax.core.paths import user_path

from .checkpoints import (
    Checkpoint,
    check_floats,
    damaged,
    file_digest,
    has_weights,
    open_weights,
    read_json,
)
from .config_fields import Fields
from .rules import first_of
from .sentence_folder import sentence_folder, transformer_folder
from .sources import find_adapter

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
EMBEDDING_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "[0-9]*_*/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of Qwen3 that an adapter may be on."""
MODULE = re.compile(
    r"layers\.(?:0|[1-9]\d*)\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"
)
TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?:model\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight"
)
QUANTISED_COPY = re.compile(r"(-unsloth)?-(bnb-[48]bit|fp8|int[48]|awq|gptq.*)$")
"""Endings of the names of quantised copies, on which adapters of the float model are trained."""
READ = ("peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "init_lora_weights")
HARMLESS = (
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    # What these chose shows in the names of the tensors.
    "bias",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    # Of layouts and starts that are refused under other names.
    "megatron_core",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
)
REFUSED = {
    "use_dora": "DoRA",
    "rank_pattern": "a rank for each layer",
    "alpha_pattern": "a factor for each layer",
    "modules_to_save": "whole layers beside the adapter",
    "trainable_token_indices": "trained tokens beside the adapter",
    "target_parameters": "LoRA on parameters that are no linear layers",
    "layer_replication": "replicated layers",
    "fan_in_fan_out": "transposed weights",
    "lora_bias": "a bias in the adapter",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA, which depends on the text,",
    "arrow_config": "a choice between adapters",
    "megatron_config": "Megatron's parallel layers",
}
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights as they are; others change them."""
MERGE_YOURSELF = (
    "merge it with PEFT (`model.merge_and_unload()`), and convert the checkpoint which that saves"
)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: a pair of small matrices for each linear layer that it changes.

    Attributes:
        folder: its local folder.
        base: what its config calls the base model; None if it does not say.
        rank, alpha: r and α of its config.
        scale: the factor of B A.
        pairs: A [rank, in] and B [out, rank] in float32 by the layer's name, as
            "layers.0.self_attn.q_proj".
        file: what holds them.
    """

    folder: Path
    base: str | None
    rank: int
    alpha: float
    scale: float
    pairs: Mapping[str, tuple[HostArray, HostArray]]
    file: Path

    def merged(self, weight: HostArray, module: str) -> HostArray:
        """A layer's weight [out, in] with the adapter's product added, in float32."""
        a, b = self.pairs[module]
        return weight.astype(np.float32) + np.float32(self.scale) * (b @ a)

    def add_to_torch(self, model: Any) -> None:
        """The same by torch, to transformers' model or to the one inside another module: the
        other side of `verify`."""
        import torch

        with torch.no_grad():
            encoder = next(part for part in model.modules() if hasattr(part, "embed_tokens"))
            for module, (a, b) in self.pairs.items():
                weight = encoder.get_submodule(module).weight
                weight += self.scale * (torch.from_numpy(b) @ torch.from_numpy(a))

    def record(self) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "source": str(self.folder),
            "base": self.base,
            "rank": self.rank,
            "alpha": self.alpha,
            "scale": self.scale,
            "layers": len(self.pairs),
            "source_digests": {self.file.name: f"sha256:{file_digest(self.file)}"},
        }


def check_adapter_beside(
    folder: Path, source: str, *, adapter: str | None = None, family: str
) -> None:
    """Refuse a checkpoint folder whose own adapter would be left out.

    Args:
        folder, source: of the checkpoint.
        adapter: what the user passed as --adapter, which may be the same folder.
        family: the command of `mrl-jax convert` that reads it.

    Raises:
        MrlError: the folder holds an adapter, alone or beside the weights, and it is not `adapter`.
    """
    if not any((folder / name).is_file() for name in (CONFIG, *WEIGHTS)):
        return
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    base = config.get("base_model_name_or_path") or "BASE"
    alone = not has_weights(folder)
    if adapter is not None and not alone and user_path(adapter).resolve() == folder.resolve():
        return
    if family != "qwen3":
        hint = MERGE_YOURSELF
    elif alone:
        hint = f"pass its base: `mrl-jax convert {family} {base} OUT --adapter {source}`"
    else:
        hint = f"merge it by `--adapter {source}`, or take {CONFIG} out of the folder"
    problem = (
        f"is a LoRA adapter without its base model, {base}"
        if alone
        else "holds a LoRA adapter beside the weights, which would be left out"
    )
    raise MrlError(problem, where=source, hint=hint)


@contextlib.contextmanager
def folder_without_adapter(folder: Path) -> Iterator[Path]:
    """A checkpoint folder as transformers reads it without PEFT.

    Where PEFT is installed, transformers loads the adapter that lies beside the weights, in the
    folder or in one below it (0_Transformer), on top of the base that this names.
    """
    if not any(folder.rglob(CONFIG)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        for path in folder.rglob("*"):
            if path.is_file() and path.name not in (CONFIG, *WEIGHTS):
                link = Path(place) / path.relative_to(folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        yield Path(place)


def read_adapter(source: str, *, revision: str | None = None) -> Adapter:
    """A PEFT adapter from a local folder or the hub.

    Raises:
        MrlError: there is none, it is damaged, or it is of a kind that is not supported.
    """
    folder = find_adapter(source, revision=revision, names=(CONFIG, *WEIGHTS))
    hint = "pass the folder that PEFT saved"
    raw = read_json(existing_file(folder / CONFIG, hint=hint))
    _check_config(raw, folder / CONFIG)
    fields = Fields(raw, folder / CONFIG)
    rank, alpha = fields.integer("r"), fields.number("lora_alpha")
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise damaged(f"has no weights: expected {' or '.join(WEIGHTS)}", folder)
    base = raw.get("base_model_name_or_path")
    return Adapter(
        folder=folder,
        base=base if isinstance(base, str) and base else None,
        rank=rank,
        alpha=alpha,
        scale=alpha / (math.sqrt(rank) if fields.flag("use_rslora", False) else rank),
        pairs=_read_pairs(file, rank),
        file=file,
    )


def merge(checkpoint: Checkpoint, adapter: Adapter, source: str) -> Checkpoint:
    """The checkpoint whose weights have the adapter merged in when they are read.

    Args:
        checkpoint: the base.
        adapter: a LoRA for it.
        source: what the user called the base.

    Raises:
        MrlError: the adapter was made for another base.
    """
    _check_base(checkpoint.folder, adapter, source)
    modules = {
        key.removeprefix("model.").removesuffix(".weight"): key
        for key in checkpoint.tensors
        if MODULE.fullmatch(key.removeprefix("model.").removesuffix(".weight"))
    }
    _check_shapes(checkpoint, modules, adapter)
    _check_targets(modules, adapter)
    changed = {modules[module]: module for module in adapter.pairs}

    def read(key: str) -> HostArray:
        weight = checkpoint.read(key)
        return adapter.merged(weight, changed[key]) if key in changed else weight

    return dataclasses.replace(checkpoint, read=read, adapter=adapter)


def notes(checkpoint: Checkpoint, source: str, dtype: str | None) -> list[str]:
    """What a user should know of a merge that went well."""
    adapter: Adapter = checkpoint.adapter
    said = []
    if others := _unread_files(adapter.folder, checkpoint.folder):
        said.append(
            f"the adapter's folder has {first_of(others, 'more')}, which the base has otherwise; "
            "the base's are taken"
        )
    if adapter.base is None:
        said.append(f"{CONFIG} does not say which base the adapter was made for")
    elif _last(adapter.base) != _last(source):
        said.append(
            f"the adapter was made for {adapter.base}; that {source} has the same weights was "
            "not checked"
        )
    dtypes = {info.dtype.name for info in checkpoint.tensors.values()} - {"float32"}
    if dtypes and dtype is None:
        said.append(
            f"the sums were rounded to {' and '.join(sorted(dtypes))}, as the base is stored; "
            "--dtype float32 keeps them whole"
        )
    return said


def _unread_files(adapter: Path, base: Path) -> list[str]:
    """Files of the adapter's folder that say how a text becomes a vector, other than the base's."""
    if adapter.resolve() == base.resolve():
        return []
    others = []
    for pattern in EMBEDDING_FILES:
        for path in sorted(adapter.glob(pattern)):
            name = path.relative_to(adapter).as_posix()
            places = (base / name, sentence_folder(base) / name)
            if not any(one.is_file() and one.read_bytes() == path.read_bytes() for one in places):
                others.append(name)
    return others


def _check_config(raw: Mapping[str, Any], where: Path) -> None:
    """Refuse by name what is not merged here, and fields that are not known."""

    def refuse(problem: str) -> None:
        raise MrlError(problem, where=where, hint=MERGE_YOURSELF)

    kind = raw.get("peft_type")
    if kind != "LORA":
        refuse(f"peft_type is {kind!r}, and only 'LORA' is supported here")
    for name, meaning in REFUSED.items():
        if raw.get(name):
            refuse(f"{name} is {raw[name]!r}, and {meaning} is not supported")
    start = raw.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        meaning = "a start that changes the base"
        refuse(f"init_lora_weights is {start!r}, and {meaning} is not supported")
    targets = raw.get("target_modules")
    for target in targets if isinstance(targets, list) else ():
        if str(target).rsplit(".", 1)[-1] not in TARGETS:
            refuse(
                f"target_modules has {target!r}, and LoRA is supported on {', '.join(TARGETS)} only"
            )
    unknown = sorted(name for name in raw if raw[name] and name not in (*READ, *HARMLESS, *REFUSED))
    if unknown:
        refuse(f"{unknown[0]} is {raw[unknown[0]]!r}, and this field is not known here")


def _read_pairs(file: Path, rank: int) -> dict[str, tuple[HostArray, HostArray]]:
    """A and B of each layer, every tensor of the file in its place."""
    tensors, read = open_weights([file])
    check_floats(tensors)
    parts: dict[str, dict[str, HostArray]] = {}
    for key in tensors:
        match = TENSOR.fullmatch(key)
        if match is None:
            meaning = "DoRA is" if "magnitude" in key else "this is"
            raise MrlError(
                f"holds {key}, and {meaning} not supported: expected lora_A.weight and "
                f"lora_B.weight of {', '.join(TARGETS)}",
                where=file,
                hint=MERGE_YOURSELF,
            )
        module, part = match["module"], match["part"]
        if MODULE.fullmatch(module) is None:
            raise MrlError(
                f"is for another base: it holds {key}, expected layers as "
                "layers.0.self_attn.q_proj",
                where=file,
                hint="pass an adapter of a Qwen3 model",
            )
        if part in parts.setdefault(module, {}):
            raise damaged(f"holds lora_{part} of {module} a second time, as {key}", file)
        parts[module][part] = read(key).astype(np.float32)
    if not parts:
        raise damaged("holds no tensors", file)
    for module, pair in parts.items():
        if missing := {"A", "B"} - set(pair):
            raise damaged(f"holds no lora_{missing.pop()} of {module}", file)
        a, b = pair["A"], pair["B"]
        if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
            raise damaged(
                f"{module} has lora_A {a.shape} and lora_B {b.shape}, expected a rank of {rank}, "
                f"which {CONFIG} names",
                file,
                hint="take both files from the same folder",
            )
    return {module: (pair["A"], pair["B"]) for module, pair in parts.items()}


def _check_base(folder: Path, adapter: Adapter, source: str) -> None:
    """Refuse a base that is certainly not the one which the adapter names."""
    base = adapter.base
    if base is None:
        return
    named = transformer_folder(Path(base))
    if has_weights(named):
        if named.resolve() != folder.resolve() and _digests(named) != _digests(folder):
            _refuse_base(adapter, f"{source} has other weights")
    elif (hub := _hub_id(folder, source)) and HUB_ID.fullmatch(base) and _last(hub) != _last(base):
        _refuse_base(adapter, f"the base passed is {hub}")


def _refuse_base(adapter: Adapter, problem: str) -> None:
    raise MrlError(
        f"was made for the base {adapter.base}, and {problem}",
        where=adapter.folder,
        hint=f"pass the base that it was made for, {adapter.base}, or a local folder with the "
        "same weights",
    )


def _hub_id(folder: Path, source: str) -> str | None:
    """Hub id of a checkpoint that came from there; None for another."""
    for place in folder.resolve().parents:
        if place.name.startswith("models--"):
            return place.name.removeprefix("models--").replace("--", "/")
    return source if not Path(source).exists() and HUB_ID.fullmatch(source) else None


def _last(name: str) -> str:
    """A model's own name, without its owner and without how a copy of it was quantised."""
    return QUANTISED_COPY.sub("", name.rstrip("/").rsplit("/", 1)[-1].lower())


def _digests(folder: Path) -> list[str]:
    """Of the weight files: *.safetensors, or *.bin where there is none."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return [file_digest(path) for path in files]


def _check_shapes(checkpoint: Checkpoint, modules: Mapping[str, str], adapter: Adapter) -> None:
    problems = []
    for module, (a, b) in adapter.pairs.items():
        if module not in modules:
            problems.append(f"{module} is not in the base")
            continue
        shape, ours = checkpoint.tensors[modules[module]].shape, (b.shape[0], a.shape[1])
        if shape != ours:
            problems.append(f"{module} is {shape} in the base and {ours} in the adapter")
    if problems:
        _other_base(adapter, problems)


def _check_targets(modules: Iterable[str], adapter: Adapter) -> None:
    """Refuse an adapter that lacks layers which its config names, or has others: PEFT, which goes
    by the config, would leave those out."""
    raw = read_json(adapter.folder / CONFIG)
    if raw.get("target_modules") is None:
        return
    targets = {module for module in modules if _is_target(module, raw, adapter.folder / CONFIG)}
    if missing := sorted(targets - set(adapter.pairs)):
        _other_base(adapter, [f"the adapter has nothing for {module}" for module in missing])
    if others := sorted(set(adapter.pairs) - targets):
        raise damaged(
            f"is for {first_of(others, 'more', at_most=2)}, which {CONFIG} leaves out "
            "(target_modules, exclude_modules, layers_to_transform)",
            adapter.file,
            hint="take both files from the same folder",
        )


def _is_target(module: str, raw: Mapping[str, Any], where: Path) -> bool:
    """Whether a config puts an adapter on a layer, by PEFT's rules."""
    layers = raw.get("layers_to_transform")
    if layers is not None:
        numbers = layers if isinstance(layers, list) else [layers]
        if int(module.split(".")[1]) not in numbers:
            return False
    excluded = raw.get("exclude_modules")
    if excluded and _names(excluded, module, where):
        return False
    targets = raw["target_modules"]
    return targets == "all-linear" or _names(targets, module, where)


def _names(names: Any, module: str, where: Path) -> bool:
    """Whether a regular expression fits a layer's whole name, or a list has the end of it."""
    if isinstance(names, str):
        try:
            return any(re.fullmatch(names, f"{prefix}{module}") for prefix in ("", "model."))
        except re.error as error:
            raise damaged(f"{names!r} is no regular expression ({error})", where) from error
    if not isinstance(names, list):
        raise damaged(f"names layers by {names!r}, expected a list or a text", where)
    return any(f".model.{module}".endswith(f".{name}") for name in names)


def _other_base(adapter: Adapter, problems: list[str]) -> None:
    named = f", {adapter.base}" if adapter.base else ""
    raise MrlError(
        f"is for another base: {first_of(problems, 'more like these', at_most=2)}",
        where=adapter.file,
        hint=f"pass the base that {CONFIG} names{named}",
    )
