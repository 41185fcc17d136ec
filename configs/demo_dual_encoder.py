"""The dual encoder in the demo world.

Command:   mrl-jax train --config demo_dual_encoder --workdir demo/dual_encoder
           (after `make demo`)
Hardware:  two CPU cores.
Duration:  about six minutes on one of them.
Expected:  nDCG@10 of 0.58 at full width, chance 0.0076.
"""

from mrl_jax.core.presets import variant
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    return variant(
        "demo_linear",
        ExperimentConfig,
        "name=demo_dual_encoder",
        "model.head_init=random",
        "model.kind=dual_encoder",
        # A head that begins at random takes larger and more steps.
        "optim.learning_rate=3e-3",
        "train.steps=600",
        "train.validate_every=150",
        "train.checkpoint_every=150",
    )
