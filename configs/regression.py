"""Late fusion that distils the text embedding instead of telling documents apart.

Command:   python train.py --config configs/regression.py data.train=YOUR-MANIFEST.jsonl
Hardware:  as configs/late_fusion.py.
Duration:  as configs/late_fusion.py.
Expected:  not yet measured here; the paper's own set is not public.
"""

import dataclasses

from mrl_jax.core.config import load_config
from mrl_jax.core.presets import find_config
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = load_config(find_config("late_fusion"), ExperimentConfig)
    return dataclasses.replace(
        base,
        name="regression",
        loss=dataclasses.replace(base.loss, name="l1_cosine"),
    )
