"""Small towers of the published architectures, and the folders they are kept in.

Their stages are the real ones (`training.text_stage`, `training.ctc_stage`); only the
sizes are small enough for two cores.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrl_jax import param_tree
from mrl_jax.array_types import DTypeLike
from mrl_jax.data.new_tokenizer import new_tokenizer
from mrl_jax.data.text import TextTokenizer
from mrl_jax.errors import MrlError
from mrl_jax.models.ctc import HubertCtc
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.staging import staged_folder
from mrl_jax.text_tower_files import save_text_tower as save_text_tower
from mrl_jax.tower_folder import TOWER_FILE, TowerInfo, save_tower


def speech_config(*, width: int = 128, num_layers: int = 3) -> HubertConfig:
    """A small HuBERT at 16 kHz with frames of 20 ms.

    Its three convolutions reach as far as the published seven, the first one as wide as
    the window of a spectrogram: a wide one learns from few hours what a row of narrow
    ones needs many for.
    """
    return HubertConfig(
        width=width,
        num_layers=num_layers,
        num_heads=4,
        mlp_width=2 * width,
        conv_channels=(96, 96, 96),
        conv_kernels=(256, 3, 3),
        conv_strides=(80, 2, 2),
        conv_bias=True,
        feature_norm="layer",
        pre_norm=True,
        position_kernel=16,
        position_groups=16,
    )


def text_config(vocab_size: int, *, width: int = 96, num_layers: int = 2) -> Qwen3Config:
    """A small Qwen3 over characters."""
    return Qwen3Config(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=2,
        head_width=32,
        mlp_width=2 * width,
        rope_theta=1e4,
        norm_epsilon=1e-6,
    )


GAP_TOKEN = 1
"""Id of what stands for anything unknown, and in the text stage for silence."""


def make_tokenizer(
    texts: Sequence[str], *, words: bool = False, whole: Sequence[str] = ()
) -> dict[str, str]:
    """A tokenizer of the characters, or words, of `texts`; its end token has id 0.

    Args:
        texts: what it must be able to read.
        words: whether words are tokens, instead of characters.
        whole: words that are one token each in either case, in lower case.
    """
    return new_tokenizer(texts, units="words" if words else "characters", whole=whole)


def open_tokenizer(files: Mapping[str, str]) -> tuple[TextTokenizer, int]:
    """The tokenizer of these files, and the size of its vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), files)
        tokenizer = TextTokenizer(folder)
    described = json.loads(files["tokenizer.json"])
    names = {
        *described["model"]["vocab"],
        *(token["content"] for token in described["added_tokens"]),
    }
    return tokenizer, len(names)


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
        "encoder": _arrays(recogniser.encoder, dtype),
        "lm_head": _arrays(recogniser.lm_head, dtype),
    }
    naming = {"prefix": "hubert.", "spellings": ["parametrizations"], "tied_output": False}
    with staged_folder(folder, marker=TOWER_FILE, overwrite=True) as staging:
        _write(staging, texts)
        return save_tower(staging, "hubert_ctc", c, weights, naming=naming, vocabulary=vocabulary)


def _arrays(module: Any, dtype: DTypeLike) -> dict[str, Any]:
    return {
        path: np.asarray(jax.device_get(leaf.get_value())).astype(dtype)
        for path, leaf in param_tree.flat_weights(module).items()
    }


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
