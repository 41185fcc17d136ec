"""Late fusion by regression onto the text embedding, instead of the contrastive loss.

Command:   mrl-jax train --config regression data.train=YOUR-MANIFEST.jsonl
Otherwise: as configs/late_fusion.py; not yet measured here.
"""

from mrl_jax.core.presets import variant
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    changes = ("name=regression", "loss.name=l1_cosine")
    return variant("late_fusion", ExperimentConfig, *changes)
