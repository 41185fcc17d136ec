"""Late fusion by regression in the demo world.

Command:   python train.py --config configs/demo_regression.py
               --workdir demo/regression   (after `make demo`)
Hardware:  two CPU cores.
Duration:  about five minutes on one core of the two.
Expected:  nDCG@10 of 0.92 at full width, chance 0.0076.
"""

import dataclasses
import runpy
from pathlib import Path

from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = runpy.run_path(str(Path(__file__).with_name("demo.py")))["get_config"]()
    return dataclasses.replace(
        base,
        name="demo_regression",
        loss=dataclasses.replace(base.loss, name="l1_cosine"),
    )
