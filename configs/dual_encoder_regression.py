"""The CLIP-like baseline by regression onto the text embedding.

Command:   mrl-jax train --config dual_encoder_regression data.train=YOUR-MANIFEST.jsonl
Otherwise: as configs/dual_encoder.py.
"""

from mrl_jax.core.presets import variant
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    changes = ("name=dual_encoder_regression", "loss.name=l1_cosine")
    return variant("dual_encoder", ExperimentConfig, *changes)
