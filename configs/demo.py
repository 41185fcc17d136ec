"""The demo world: spoken Wolof phrases find their French wording. Run by `make demo`.

Command:   make demo
Hardware:  two CPU cores.
Duration:  two minutes, all stages.
Expected:  nDCG@10 of 0.96 at full width, chance 0.0076.
"""

from mrl_jax.core.presets import variant
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    return variant(
        "demo_linear",
        ExperimentConfig,
        "name=demo",
        "model.head=soft_ctc",
        "model.head_init=random",
        # For two noisy channels; the defaults are as good without noise (decision 031).
        "model.compress_blank=0.98",
        "model.logit_temperature=1.5",
        # The towers share their characters: the head works untrained.
        "train.steps=0",
    )
