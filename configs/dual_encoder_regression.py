"""The CLIP-like baseline, distilling the text embedding.

Command:   python train.py --config configs/dual_encoder_regression.py
               data.train=YOUR-MANIFEST.jsonl
Hardware:  as configs/late_fusion.py.
Duration:  as configs/late_fusion.py, or less.
Expected:  not yet measured here; the paper's own set is not public.
"""

import dataclasses
import runpy
from pathlib import Path

from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = runpy.run_path(str(Path(__file__).with_name("dual_encoder.py")))["get_config"]()
    return dataclasses.replace(
        base,
        name="dual_encoder_regression",
        loss=dataclasses.replace(base.loss, name="l1_cosine"),
    )
