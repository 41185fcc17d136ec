"""The CLIP-like baseline, distilling the text embedding.

Command:   python train.py --config configs/dual_encoder_regression.py
               data.train=YOUR-MANIFEST.jsonl
Hardware:  as configs/late_fusion.py.
Duration:  as configs/late_fusion.py, or less.
Expected:  not yet measured here; the paper's own set is not public.
"""

import dataclasses

from mrl_jax.core.config import load_config
from mrl_jax.core.presets import find_config
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = load_config(find_config("dual_encoder"), ExperimentConfig)
    return dataclasses.replace(
        base,
        name="dual_encoder_regression",
        loss=dataclasses.replace(base.loss, name="l1_cosine"),
    )
