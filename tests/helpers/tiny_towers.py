"""Sizes of towers small enough for tests."""

from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.qwen3 import Qwen3Config

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
