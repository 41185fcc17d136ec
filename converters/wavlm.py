"""WavLM checkpoints: HuBERT's tensors, and those of the gated position bias."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrl_jax.models.wavlm import WavLMConfig

from . import hubert
from .config_fields import Fields
from .rules import Layout, Rule

_LAYER = "encoder.layers.{layer}.attention."
RULES = (
    # The first layer holds the bias that all of them read.
    Rule("encoder.layers.0.attention.rel_attn_embed.weight", "encoder.position_bias.embedding"),
    Rule(f"{_LAYER}gru_rel_pos_const", "encoder.layers.attention.gate.scale"),
    Rule(
        f"{_LAYER}gru_rel_pos_linear.weight",
        "encoder.layers.attention.gate.projection.kernel",
        Layout.LINEAR,
    ),
    Rule(f"{_LAYER}gru_rel_pos_linear.bias", "encoder.layers.attention.gate.projection.bias"),
)


def parse_config(
    raw: Mapping[str, Any],
    *,
    where: object,
    preprocessor: tuple[Path, Mapping[str, Any]] | None = None,
) -> WavLMConfig:
    """As `hubert.parse_config`, and the sizes of the position bias."""
    shared = hubert.parse_config(raw, where=where, preprocessor=preprocessor, model_type="wavlm")
    fields = Fields(raw, where)
    return fields.build(
        WavLMConfig,
        **vars(shared),
        position_buckets=fields.integer("num_buckets", 320),
        position_distance=fields.integer("max_bucket_distance", 800),
    )


FAMILY = hubert.speech_family("wavlm", "WavLM", rules=RULES, read_config=parse_config)
