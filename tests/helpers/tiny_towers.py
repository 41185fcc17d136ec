"""Sizes of towers small enough for tests, as published config.json and as ours."""

from typing import Any

from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.qwen3 import Qwen3Config

QWEN3_JSON: dict[str, Any] = {
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
}
HUBERT_JSON: dict[str, Any] = {
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
}
JSONS = {"qwen3": QWEN3_JSON, "hubert": HUBERT_JSON}
"""By family of checkpoints."""


QWEN3 = Qwen3Config(
    vocab_size=101,
    width=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_width=16,
    mlp_width=48,
    rope_theta=1e6,
    norm_epsilon=1e-6,
)
HUBERT = HubertConfig(
    width=32,
    num_layers=3,
    num_heads=4,
    mlp_width=48,
    conv_channels=(16,) * 7,
    position_kernel=16,
    position_groups=4,
)
