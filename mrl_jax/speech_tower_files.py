"""A recogniser that was trained here, as a tower folder with the files of a published one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrl_jax import param_tree
from mrl_jax.array_types import DTypeLike
from mrl_jax.errors import MrlError
from mrl_jax.models.ctc import HubertCtc
from mrl_jax.staging import staged_folder
from mrl_jax.tower_folder import TOWER_FILE, TowerInfo, save_tower


def save_speech_tower(
    folder: Path, recogniser: HubertCtc, *, dtype: DTypeLike = "float32"
) -> TowerInfo:
    """Write a trained recogniser as a tower folder; it loads as a speech tower as well."""
    c, vocabulary = recogniser.encoder.config, recogniser.vocabulary
    if vocabulary is None:
        raise MrlError("the recogniser has no vocabulary", mend="train it with one")
    published = {
        "architectures": ["HubertForCTC"],
        "model_type": "hubert",
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
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": c.normalize_clips,
        "feature_size": 1,
        "sampling_rate": c.sample_rate,
        "padding_value": 0.0,
    }
    tokenizer = {
        "pad_token": vocabulary.tokens[vocabulary.blank],
        "word_delimiter_token": vocabulary.word_delimiter,
        "do_lower_case": vocabulary.lower_case,
    }
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    files = {
        "config.json": published,
        "preprocessor_config.json": preprocessor,
        "vocab.json": ids,
        "tokenizer_config.json": tokenizer,
    }
    texts = {
        name: json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        for name, value in files.items()
    }
    weights = {
        "encoder": tower_arrays(recogniser.encoder, dtype),
        "lm_head": tower_arrays(recogniser.lm_head, dtype),
    }
    naming = {"prefix": "hubert.", "spellings": ["parametrizations"], "tied_output": False}
    with staged_folder(folder, marker=TOWER_FILE, overwrite=True) as staging:
        write_files(staging, texts)
        return save_tower(staging, "hubert_ctc", c, weights, naming=naming, vocabulary=vocabulary)


def tower_arrays(module: Any, dtype: DTypeLike) -> dict[str, Any]:
    """A module's weights in host memory, by dotted path."""
    return {
        path: np.asarray(jax.device_get(leaf.get_value())).astype(dtype)
        for path, leaf in param_tree.flat_weights(module).items()
    }


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Texts by file name, into a folder that is there."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
