"""Late fusion by regression in the demo world.

Command:   mrl-jax train --config demo_regression --workdir demo/regression   (after `make demo`)
Hardware:  two CPU cores. Duration: about five minutes on one of them.
Expected:  nDCG@10 of 0.92 at full width, chance 0.0076.
"""

from mrl_jax.core.presets import variant
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    return variant("demo_linear", ExperimentConfig, "name=demo_regression", "loss.name=l1_cosine")
