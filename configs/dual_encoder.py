"""The CLIP-like baseline: pooled speech frames, a linear layer for each dimension.

Command:   python train.py --config configs/dual_encoder.py data.train=YOUR-MANIFEST.jsonl
Hardware:  as configs/late_fusion.py.
Duration:  as configs/late_fusion.py, or less: no speech goes through the text tower.
Nested:    one layer whose prefixes serve all dimensions: add model.nested=true.
Expected:  not yet measured here; the paper's own set is not public.
"""

import dataclasses

from mrl_jax.core.config import load_config
from mrl_jax.core.presets import find_config
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = load_config(find_config("late_fusion"), ExperimentConfig)
    return dataclasses.replace(
        base,
        name="dual_encoder",
        model=dataclasses.replace(base.model, kind="dual_encoder"),
    )
