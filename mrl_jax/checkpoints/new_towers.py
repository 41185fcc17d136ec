"""Towers trained here as tower folders, with the published small files beside the weights.

Other libraries load what `mrl-jax convert export` makes of such a folder: for that it holds
config.json, the files of sentence-transformers, a tokenizer that appends the end token, and a
recogniser's vocabulary and feature extractor.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from mrl_jax.checkpoints.towers import TOWER_FILE, TowerInfo, Weights, save_tower
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.files import staged_folder
from mrl_jax.core.links import check_links
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.models.wavlm import WavLMConfig
from mrl_jax.nn import param_tree

OWN_FILES = (TOWER_FILE, "report.json", "verification.json")
NEW_NAMING: Mapping[str, Any] = {"prefix": "", "spellings": [], "tied_output": False}
"""Tensor names of a tower that was made here: those of Qwen3-Embedding."""


def published_config(config: Qwen3Config, dtype: DTypeLike) -> dict[str, Any]:
    """The config.json of a published model of these sizes."""
    return {
        "architectures": ["Qwen3Model"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        **({} if config.causal else {"is_causal": False}),
        "tie_word_embeddings": True,
        "dtype": str(np.dtype(dtype)),
    }


def save_text_tower(
    folder: Path,
    tower: Qwen3Encoder,
    tokenizer: Mapping[str, str],
    *,
    dtype: DTypeLike = "float32",
    labels: Sequence[str] = (),
) -> TowerInfo:
    """Write a text tower that was made here as a tower folder.

    Args:
        folder: to be made, or replaced.
        tower: the weights.
        tokenizer: files of its tokenizer by name.
        dtype: of the stored weights.
        labels: see `TowerInfo`.
    """
    files = {**_json_files({"config.json": published_config(tower.config, dtype)}), **tokenizer}
    weights = {"encoder": tower_arrays(tower, dtype)}
    described: dict[str, Any] = {"naming": NEW_NAMING, "labels": labels}
    return write_tower(folder, "qwen3", tower.config, weights, files, **described)


def write_tower(
    folder: Path,
    kind: str,
    config: Any,
    weights: Weights,
    files: Mapping[str, str | bytes],
    **described: Any,
) -> TowerInfo:
    """A tower's folder of these arrays and small files, whole or not at all.

    `described` are the `naming`, `vocabulary` and `labels` of `save_tower`.
    """
    needed = sum(array.nbytes for arrays in weights.values() for array in arrays.values())
    with staged_folder(folder, marker=TOWER_FILE, overwrite=True, needs_bytes=needed) as staging:
        write_files(staging, files)
        return save_tower(staging, kind, config, weights, **described)


def small_files(folder: Path) -> dict[str, bytes]:
    """The published files that a tower folder carries, by their relative names.

    Raises:
        MrlError: one is a link that leads out of the folder.
    """
    check_links(folder)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted([*folder.glob("*"), *folder.glob("[0-9]*_*/config.json")])
        if path.is_file() and path.name not in OWN_FILES and not path.name.startswith(".")
    }


POOLING_FLAGS = {"last": "lasttoken", "mean": "mean_tokens", "cls": "cls_token"}
"""Names of poolings in sentence-transformers' older files."""
TORCH_ACTIVATIONS = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}


def sentence_files(
    config: Qwen3Config, max_tokens: int, prompts: Mapping[str, str], *, document_prompt: str = ""
) -> dict[str, str]:
    """What sentence-transformers reads: the tower's pooling, layers behind it, then unit length.

    In the format of Qwen3-Embedding's own folder, which its old and new versions read.
    `prompts` go before a query, word for word, by task; `document_prompt` before a document.
    """
    kinds = ("Transformer", "Pooling", *["Dense"] * len(config.dense), "Normalize")
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    chosen = POOLING_FLAGS[config.pooling]
    pooling = {
        "word_embedding_dimension": config.width,
        **{
            f"pooling_mode_{mode}": mode == chosen
            for mode in (*modes, "weightedmean_tokens", "lasttoken")
        },
        "include_prompt": True,
    }
    prompts = dict(prompts) | ({"document": document_prompt} if document_prompt else {})
    options = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    files: dict[str, Any] = {
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "config_sentence_transformers.json": options,
        "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
    }
    before = config.width
    for number, layer in enumerate(config.dense, start=2):
        files[f"{number}_Dense/config.json"] = {
            "in_features": before,
            "out_features": layer.width,
            "bias": layer.bias,
            "activation_function": TORCH_ACTIVATIONS[layer.activation],
        }
        before = layer.width
    return _json_files(files, indent=2)


def appending_end(tokenizer: bytes, end_id: int, *, where: object) -> bytes:
    """A tokenizer.json that appends the end token to every text, as this library does.

    Other special tokens that it added are dropped, as this library does not add them.

    Raises:
        MrlError: it cannot be read, or adds special tokens in an unknown way.
    """
    from tokenizers import Tokenizer

    hint = "copy tokenizer.json from the published model again"
    try:
        raw = json.loads(tokenizer)
        plain, ended = _with_and_without(Tokenizer.from_str(tokenizer.decode()))
        if ended == [*plain, end_id]:
            return tokenizer
        end = str(Tokenizer.from_str(tokenizer.decode()).id_to_token(end_id))
        template = _template(end, end_id)
        before = raw.get("post_processor")
        raw["post_processor"] = (
            template
            if before is None or ended != plain
            else {"type": "Sequence", "processors": [before, template]}
        )
        changed = json.dumps(raw, indent=1, ensure_ascii=False).encode() + b"\n"
        plain, ended = _with_and_without(Tokenizer.from_str(changed.decode()))
    except Exception as error:  # The library raises bare Exceptions.
        problem = f"cannot be given an end token ({first_line(error)})"
        raise MrlError(problem, where=where, hint=hint) from error
    if ended != [*plain, end_id]:
        problem = (
            f"puts {ended} around the tokens {plain}, expected the end token {end_id} behind them"
        )
        raise MrlError(problem, where=where, hint=hint)
    return changed


def _with_and_without(tokenizer: Any) -> tuple[list[int], list[int]]:
    return tuple(tokenizer.encode("a b", add_special_tokens=put).ids for put in (False, True))


def _template(end: str, end_id: int) -> dict[str, Any]:
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    closing = {"SpecialToken": {"id": end, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, closing],
        "pair": [first, closing, second, closing],
        "special_tokens": {end: {"id": end, "ids": [end_id], "tokens": [end]}},
    }


def save_speech_tower(
    folder: Path, recogniser: HubertCtc, *, dtype: DTypeLike = "float32"
) -> TowerInfo:
    """Write a trained recogniser as a tower folder; it loads as a speech tower as well."""
    c, vocabulary = recogniser.encoder.config, recogniser.vocabulary
    if vocabulary is None:
        raise MrlError("the recogniser has no vocabulary", hint="train it with one")
    # HuBERT's class has every variant of its kin but WavLM's attention.
    kind, name = ("wavlm", "WavLM") if isinstance(c, WavLMConfig) else ("hubert", "Hubert")
    published = {
        "architectures": [f"{name}ForCTC"],
        "model_type": kind,
        "vocab_size": len(vocabulary.tokens),
        "hidden_size": c.width,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "intermediate_size": c.mlp_width,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "layer_norm_eps": c.norm_epsilon,
        "conv_dim": list(c.conv_channels),
        "conv_kernel": list(c.conv_kernels),
        "conv_stride": list(c.conv_strides),
        "num_feat_extract_layers": len(c.conv_channels),
        "conv_bias": c.conv_bias,
        "feat_extract_norm": c.feature_norm,
        "feat_proj_layer_norm": c.projection_norm,
        "do_stable_layer_norm": c.pre_norm,
        "num_conv_pos_embeddings": c.position_kernel,
        "num_conv_pos_embedding_groups": c.position_groups,
        "pad_token_id": vocabulary.blank,
        "dtype": str(np.dtype(dtype)),
    }
    if c.position_norm == "batch":
        published["conv_pos_batch_norm"] = True
    if c.adapter_width is not None:
        published["adapter_attn_dim"] = c.adapter_width
    if isinstance(c, WavLMConfig):
        published["num_buckets"] = c.position_buckets
        published["max_bucket_distance"] = c.position_distance
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": c.normalize_clips,
        "feature_size": 1,
        "sampling_rate": c.sample_rate,
        "padding_value": 0.0,
    }
    files = {
        "config.json": published,
        "preprocessor_config.json": preprocessor,
        **recogniser_files(vocabulary),
    }
    weights = {
        "encoder": tower_arrays(recogniser.encoder, dtype),
        "lm_head": tower_arrays(recogniser.lm_head, dtype),
    }
    naming = {"prefix": f"{kind}.", "spellings": ["parametrizations"], "tied_output": False}
    described: dict[str, Any] = {"naming": naming, "vocabulary": vocabulary}
    return write_tower(folder, f"{kind}_ctc", c, weights, _json_files(files), **described)


def recogniser_files(vocabulary: CtcVocabulary) -> dict[str, Any]:
    """vocab.json and tokenizer_config.json as transformers' CTC tokenizer reads them, by name.

    Byte-level tokens are written as the texts that they are. Where one is a part of a character,
    which that tokenizer cannot express, all stay as they are, and `byte_level` says so. Where two
    outputs have the same token there is no vocab.json.
    """
    texts = tuple(map(vocabulary.text_of, range(len(vocabulary.tokens))))
    written = set(texts) - {""}
    whole = len(written) == len(texts) - 1 and "\ufffd" not in "".join(texts)
    tokens = list(texts if vocabulary.byte_level and whole else vocabulary.tokens)
    tokens[vocabulary.blank] = vocabulary.tokens[vocabulary.blank]
    options: dict[str, Any] = {
        "pad_token": None if vocabulary.writes_blank else tokens[vocabulary.blank],
        "word_delimiter_token": vocabulary.word_delimiter,
        "do_lower_case": vocabulary.lower_case,
    }
    if vocabulary.word_delimiter_text != " ":
        options["replace_word_delimiter_char"] = vocabulary.word_delimiter_text
    if vocabulary.separator:
        options["tokenizer_class"] = "Wav2Vec2PhonemeCTCTokenizer"
    if vocabulary.joins_punctuation:
        options["clean_up_tokenization_spaces"] = True
    if vocabulary.byte_level and not whole:
        options["byte_level"] = True
    if vocabulary.text_ids:
        options["text_ids"] = list(vocabulary.text_ids)
        options["text_tokenizer_digest"] = vocabulary.tokenizer_digest
    ids = {token: number for number, token in enumerate(tokens)}
    files = {"vocab.json": ids, "tokenizer_config.json": options}
    return files if len(ids) == len(tokens) else {"tokenizer_config.json": options}


def _json_files(files: Mapping[str, Any], *, indent: int = 1) -> dict[str, str]:
    return {
        name: json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
        for name, value in files.items()
    }


def tower_arrays(module: Any, dtype: DTypeLike) -> dict[str, Any]:
    """A module's weights in host memory, by dotted path."""
    return {
        path: np.asarray(jax.device_get(leaf.get_value())).astype(dtype)
        for path, leaf in param_tree.flat_weights(module).items()
    }


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Contents by relative file name, into a folder that is there."""
    for name, contents in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(contents.encode() if isinstance(contents, str) else contents)
