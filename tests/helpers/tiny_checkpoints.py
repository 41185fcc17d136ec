"""Checkpoints of random weights in the published formats, and towers of them, without torch."""

import json
from pathlib import Path
from typing import Any

from converters.convert import convert
from converters.random_init import random_init

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {
        "model_type": "qwen3",
        "vocab_size": 101,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
    },
    "hubert": {
        "model_type": "hubert",
        "vocab_size": 13,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": [16] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
}
"""Family: a Hugging Face config.json."""


def write_config(family: str, path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**CONFIGS[family], **changes}), encoding="utf-8")
    return path


def make_checkpoint(family: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint folder, beside its config; `changes` are fields of that config."""
    config = write_config(family, folder.with_name(f"{folder.name}.json"), **changes)
    random_init(family, config, folder, seed=seed)
    config.unlink()
    return folder


def make_tower(family: str, checkpoint: Path, folder: Path) -> Path:
    """The tower folder of a checkpoint."""
    convert(str(checkpoint), folder, family=family)
    return folder
