"""The head as it was published: no end token after the speech, padding read as speech.

Command:   python train.py --config configs/oolel_embed.py data.train=YOUR-MANIFEST.jsonl
Hardware:  as configs/late_fusion.py.
Duration:  as configs/late_fusion.py.
Expected:  not yet measured here. For comparison with the published head only: masked
           padding and the end token (configs/late_fusion.py) are what to train with.
"""

import dataclasses

from mrl_jax.core.config import load_config
from mrl_jax.core.presets import find_config
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    base = load_config(find_config("late_fusion"), ExperimentConfig)
    return dataclasses.replace(
        base,
        name="oolel_embed",
        model=dataclasses.replace(
            base.model, end_token=False, padding="reference", calibrate=False
        ),
    )
