"""The CLIP-like baseline: pooled speech frames, a linear layer for each dimension.

Command:   mrl-jax train --config dual_encoder data.train=YOUR-MANIFEST.jsonl
Nested:    one layer whose prefixes serve all dimensions: add model.nested=true.
Duration:  less than configs/late_fusion.py: no speech goes through the text tower.
Expected:  not yet measured here; the paper's own set is not public.
"""

from mrl_jax.core.presets import variant
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    changes = ("name=dual_encoder", "model.kind=dual_encoder")
    return variant("late_fusion", ExperimentConfig, *changes)
