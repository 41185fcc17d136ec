"""A head between a world's towers, at 8 kHz.

Command:   python benchmarks/claims.py --world WORLD --only linear
Hardware:  two CPU cores. Duration and score: docs/claims.md.
"""

from benchmarks.claims_worlds import settings
from mrl_jax.training.contrastive.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    return settings.head(8_000)
