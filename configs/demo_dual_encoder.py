"""The dual encoder in the demo world.

Command:   python train.py --config configs/demo_dual_encoder.py
               --workdir demo/dual_encoder   (after `make demo`)
Hardware:  two CPU cores.
Duration:  about six minutes on one core of the two.
Expected:  nDCG@10 of 0.58 at full width, chance 0.0076.
"""

import dataclasses

from mrl_jax.core.config import load_config
from mrl_jax.core.presets import find_config
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = load_config(find_config("demo"), ExperimentConfig)
    return dataclasses.replace(
        base,
        name="demo_dual_encoder",
        model=dataclasses.replace(base.model, kind="dual_encoder", start="random"),
        # A head that begins at random takes larger and more steps.
        optim=dataclasses.replace(base.optim, learning_rate=3e-3),
        train=dataclasses.replace(base.train, steps=600, validate_every=150, checkpoint_every=150),
    )
