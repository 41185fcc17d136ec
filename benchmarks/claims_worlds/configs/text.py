"""A small text tower from random weights, on a world's text pairs.

Command:   python benchmarks/claims.py --world WORLD --only text
Hardware:  two CPU cores. Duration and score: docs/claims.md.
"""

from benchmarks.claims_worlds import settings
from mrl_jax.training.text_tower.config import TextStageExperiment


def get_config() -> TextStageExperiment:
    return settings.text_stage()
