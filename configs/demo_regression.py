"""Late fusion by regression in the demo world.

Command:   python train.py --config configs/demo_regression.py
               --workdir demo/regression   (after `make demo`)
Hardware:  two CPU cores.
Duration:  about five minutes on one core of the two.
Expected:  nDCG@10 of 0.92 at full width, chance 0.0076.
"""

import dataclasses

from mrl_jax.core.config import load_config
from mrl_jax.core.presets import find_config
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = load_config(find_config("demo"), ExperimentConfig)
    return dataclasses.replace(
        base,
        name="demo_regression",
        loss=dataclasses.replace(base.loss, name="l1_cosine"),
    )
