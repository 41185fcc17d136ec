"""The files of sentence-transformers beside a text checkpoint: how it embeds, read or refused.

modules.json lists the modules that a text passes through; each has a folder of its own. What the
text tower does not compute is refused by file and field.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mrl_jax.core.errors import MrlError
from mrl_jax.models.text_pooling import Activation, DenseConfig, Pooling

from .checkpoints import Checkpoint, damaged, open_tensors, read_json
from .config_fields import Fields
from .sentence_folder import MODULES, read_modules, sentence_folder

DENSE_KEY = "dense.{number}."
"""What stands before the names of a Dense layer's tensors, which lie in a file of its own."""
POOLINGS: Mapping[str, Pooling] = {"lasttoken": "last", "mean": "mean", "cls": "cls"}
OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS: Mapping[str, Activation] = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
"""Classes of torch.nn that may follow a Dense layer, by their last name."""
TRANSFORMER_READ = (
    "max_seq_length",  # By `text_recipe`.
    "do_lower_case",
    "transformer_task",
    "modality_config",
    "module_output_name",
    "processing_kwargs",
    "query_expansion",
    "query_length",
    "document_length",
    "tokenizer_name_or_path",
    "backend",
    "unpad_inputs",  # Of flash attention, with the same result.
)
_MODEL = ("attn_implementation", "device_map", "dtype", "torch_dtype", "low_cpu_mem_usage")
_TOKENIZER = ("padding_side", "use_fast")
LOADING_OPTIONS = {
    "model_args": _MODEL,
    "model_kwargs": _MODEL,
    "tokenizer_args": _TOKENIZER,
    "processor_kwargs": _TOKENIZER,
    "config_args": ("use_cache",),
    "config_kwargs": ("use_cache",),
}
"""Fields that change how the tower is loaded, with the options that change no vector."""
POOLING_READ = (
    "embedding_dimension",
    "word_embedding_dimension",
    "pooling_mode",
    *OLD_POOLINGS,
    "include_prompt",
)
DENSE_READ = (
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "use_residual",
    "module_input_name",
    "module_output_name",
)
COSINE = ("cosine", None)
OWN_LIBRARY = "embed texts by sentence-transformers itself, or convert a checkpoint without it"


@dataclasses.dataclass(frozen=True)
class SentenceModules:
    """How a checkpoint embeds a text, behind its encoder.

    Attributes:
        pooling: of the token vectors.
        dense: layers behind the pooling.
        dense_folders: their folders, relative to the checkpoint.
        normalized: whether vectors get unit length.
    """

    pooling: Pooling
    dense: tuple[DenseConfig, ...]
    dense_folders: tuple[str, ...]
    normalized: bool


def read_sentence_modules(folder: Path, width: int) -> SentenceModules | None:
    """What a text of `width`-wide token vectors passes through; None without modules.json.

    Raises:
        MrlError: a module, an option or an order of them that the text tower does not compute.
    """
    root = sentence_folder(folder)
    path = root / MODULES
    if not path.is_file():
        return None
    paths = module_folders(root)
    _check_order(folder, paths)
    _check_transformer(folder / "sentence_bert_config.json")
    normalized = "Normalize" in [name for name, _ in paths]
    _check_similarity(root / "config_sentence_transformers.json", normalized)
    pooling = _read_pooling(root / paths[1][1] / "config.json", width)
    folders = tuple(place for name, place in paths if name == "Dense")
    if strange := [place for _, place in paths[1:] if not re.fullmatch(r"\d+_\w+", place)]:
        _refuse(path, f"has a module in {strange[0]!r}, expected a folder like 1_Pooling")
    layers: list[DenseConfig] = []
    for place in folders:
        layers.append(_read_dense(root / place / "config.json", width))
        width = layers[-1].width
    return SentenceModules(pooling, tuple(layers), folders, normalized)


def _check_order(folder: Path, modules: Sequence[tuple[str, str]]) -> None:
    """Refuse modules of `module_folders` that the text tower does not compute one by one."""
    root = sentence_folder(folder)
    path = root / MODULES
    names = [name for name, _ in modules]
    kept = [name for name in names if name != "Dense"]
    if names[:2] != ["Transformer", "Pooling"] or kept[2:] not in ([], ["Normalize"]):
        _refuse(path, f"lists {', '.join(names)}, expected Transformer, Pooling, Dense, Normalize")
    if "Normalize" in names[:-1]:
        _refuse(path, "lists Normalize before another module, and only behind all is supported")
    if root / modules[0][1] != folder:
        problem = f"has its Transformer in {modules[0][1]!r}, and only beside modules.json is read"
        _refuse(path, problem, hint="copy the files of that folder beside modules.json")


def module_folders(folder: Path) -> list[tuple[str, str]]:
    """Name and folder of each module of modules.json, in order.

    Raises:
        MrlError: a module that is not one of sentence-transformers' own; a damaged file.
    """
    path = folder / MODULES
    modules = read_modules(folder)
    found = []
    for number, module in enumerate(modules):
        if not isinstance(module.get("type"), str):
            raise damaged(f"module {number} has no type", path)
        kind, place = module["type"], module.get("path", "")
        if not kind.startswith("sentence_transformers."):
            _refuse(path, f"module {number} is {kind!r}, which is code of its own")
        if not isinstance(place, str) or Path(place).is_absolute() or ".." in Path(place).parts:
            raise damaged(f"module {number} has the path {place!r}, expected a folder's name", path)
        for name, value in module.items():
            if name not in ("idx", "name", "path", "type") and value:
                _refuse(path, f"module {number} has {name} {value!r}")
        found.append((kind.rsplit(".", 1)[-1], place))
    return found


def with_dense(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with the tensors of the Dense layers that modules.json lists.

    Raises:
        MrlError: a layer's file is missing or damaged, or stands where none is supported.
    """
    root = sentence_folder(checkpoint.folder)
    if not (root / MODULES).is_file():
        return checkpoint
    tensors, readers, modules = dict(checkpoint.tensors), {}, module_folders(root)
    folders = [place for name, place in modules if name == "Dense"]
    if folders:
        _check_order(checkpoint.folder, modules)
    for number, place in enumerate(folders):
        found, read = open_tensors(root / place)
        prefix = DENSE_KEY.format(number=number)
        tensors |= {prefix + key: info for key, info in found.items()}
        readers |= {prefix + key: (read, key) for key in found}

    def read_any(key: str) -> Any:
        read, name = readers.get(key, (checkpoint.read, key))
        return read(name)

    return dataclasses.replace(checkpoint, tensors=tensors, read=read_any)


def dense_place(key: str, folders: Sequence[str]) -> tuple[str, str] | None:
    """Folder and own name of a Dense layer's tensor; None for any other tensor."""
    for number, place in enumerate(folders):
        prefix = DENSE_KEY.format(number=number)
        if key.startswith(prefix):
            return place, key.removeprefix(prefix)
    return None


def _check_transformer(path: Path) -> None:
    """What stands before the pooling: the encoder's last hidden state, of the text as it is."""
    if not path.is_file():
        return
    fields = Fields(read_json(path), path)
    fields.refuse("do_lower_case", "lower-casing texts")
    fields.refuse("processing_kwargs", "its own way of calling the tokenizer")
    fields.refuse("query_expansion", "expanding queries")
    fields.refuse("query_length", "a length of its own for queries")
    fields.refuse("document_length", "a length of its own for documents")
    fields.refuse("tokenizer_name_or_path", "a tokenizer from elsewhere")
    fields.require("backend", "torch", default="torch")
    for name, harmless in LOADING_OPTIONS.items():
        options = fields.raw.get(name) or {}
        others = options
        if isinstance(options, Mapping):
            others = {key: value for key, value in options.items() if key not in harmless}
        if others:
            fields.unsupported(name, others, "loading the tower with other options")
    fields.refuse_others((*TRANSFORMER_READ, *LOADING_OPTIONS))
    fields.require("transformer_task", "feature-extraction", default="feature-extraction")
    fields.require("module_output_name", "token_embeddings", default="token_embeddings")
    modalities = fields.raw.get("modality_config") or {}
    text = modalities.get("text") if isinstance(modalities, Mapping) else None
    if text is not None:
        method = Fields(text, f"{path}: modality_config.text")
        method.require("method", "forward", default="forward")
        method.require("method_output_name", "last_hidden_state", default="last_hidden_state")
    elif modalities:
        fields.unsupported("modality_config", modalities, "anything but text")


def _check_similarity(path: Path, normalized: bool) -> None:
    """Vectors are compared by cosine here, which is any similarity of unit vectors."""
    if not path.is_file():
        return
    fields = Fields(read_json(path), path)
    fields.refuse("truncate_dim", "a width of its own")
    if not normalized and fields.raw.get("similarity_fn_name") not in COSINE:
        name = "similarity_fn_name"
        fields.unsupported(name, fields.raw[name], "comparing vectors that have lengths")


def _read_pooling(path: Path, width: int) -> Pooling:
    fields = Fields(read_json(path), path)
    fields.refuse_others(POOLING_READ)
    for name in ("embedding_dimension", "word_embedding_dimension"):
        if fields.raw.get(name) is not None and fields.integer(name) != width:
            fields.unsupported(name, fields.raw[name], f"other than the encoder's width, {width},")
    if "pooling_mode" in fields.raw:
        modes = fields.raw["pooling_mode"]
        modes, where = [modes] if isinstance(modes, str) else modes, "pooling_mode"
    else:
        where = next((name for name in OLD_POOLINGS if fields.raw.get(name)), "pooling_mode")
        modes = [mode for name, mode in OLD_POOLINGS.items() if fields.raw.get(name)] or ["mean"]
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in POOLINGS:
        names = "+".join(map(str, modes)) if isinstance(modes, list) else modes
        fields.unsupported(where, fields.raw.get(where), f"{names} pooling")
    pooling = POOLINGS[modes[0]]
    if pooling != "last" and not fields.flag("include_prompt", True):
        fields.unsupported("include_prompt", False, f"{pooling} pooling without the prompt")
    return pooling


def _read_dense(path: Path, width: int) -> DenseConfig:
    fields = Fields(read_json(path), path)
    fields.refuse_others(DENSE_READ)
    if fields.integer("in_features") != width:
        fields.unsupported("in_features", fields.raw["in_features"], f"other than {width} here")
    fields.refuse("use_residual", "a residual around the layer")
    for name in ("module_input_name", "module_output_name"):
        fields.require(name, "sentence_embedding", default="sentence_embedding")
    function = fields.raw.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = str(function).rsplit(".", 1)[-1]
    if not str(function).startswith("torch.nn.") or name not in ACTIVATIONS:
        fields.unsupported("activation_function", function, "this activation")
    return fields.build(
        DenseConfig,
        width=fields.integer("out_features"),
        bias=fields.flag("bias", True),
        activation=ACTIVATIONS[name],
    )


def _refuse(path: Path, problem: str, *, hint: str = OWN_LIBRARY) -> NoReturn:
    raise MrlError(f"{problem}: not supported", where=path, hint=hint)
