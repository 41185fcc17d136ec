"""The dual encoder by regression in the demo world.

Command:   python train.py --config configs/demo_dual_encoder_regression.py
               --workdir demo/dual_encoder_regression   (after `make demo`)
Hardware:  two CPU cores.
Duration:  about six minutes on one core of the two.
Expected:  nDCG@10 of 0.49 at full width, chance 0.0076.
"""

import dataclasses
import runpy
from pathlib import Path

from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = runpy.run_path(str(Path(__file__).with_name("demo_dual_encoder.py")))["get_config"]()
    return dataclasses.replace(
        base,
        name="demo_dual_encoder_regression",
        loss=dataclasses.replace(base.loss, name="l1_cosine"),
    )
