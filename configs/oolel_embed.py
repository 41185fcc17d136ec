"""The head as it was published: no end token after the speech, padding read as speech.

Command:   mrl-jax train --config oolel_embed data.train=YOUR-MANIFEST.jsonl
Otherwise: as configs/late_fusion.py; not yet measured here. For comparison with the published
           head only: masked padding and the end token are what to train with.
"""

from mrl_jax.core.presets import variant
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    return variant(
        "late_fusion",
        ExperimentConfig,
        "name=oolel_embed",
        "model.end_token=false",
        "model.padding=reference",
        "model.calibrate=false",
    )
