"""The dual encoder by regression in the demo world.

Command:   python train.py --config configs/demo_dual_encoder_regression.py
               --workdir demo/dual_encoder_regression   (after `make demo`)
Hardware:  two CPU cores.
Duration:  about six minutes on one core of the two.
Expected:  nDCG@10 of 0.49 at full width, chance 0.0076.
"""

import dataclasses

from mrl_jax.core.config import load_config
from mrl_jax.core.presets import find_config
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = load_config(find_config("demo_dual_encoder"), ExperimentConfig)
    return dataclasses.replace(
        base,
        name="demo_dual_encoder_regression",
        loss=dataclasses.replace(base.loss, name="l1_cosine"),
    )
