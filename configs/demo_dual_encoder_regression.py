"""The dual encoder by regression in the demo world: nDCG@10 of 0.49 at full width.

Command:   mrl-jax train --config demo_dual_encoder_regression
               --workdir demo/dual_encoder_regression   (after `make demo`)
Otherwise: as configs/demo_dual_encoder.py.
"""

from mrl_jax.core.presets import variant
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    changes = ("name=demo_dual_encoder_regression", "loss.name=l1_cosine")
    return variant("demo_dual_encoder", ExperimentConfig, *changes)
