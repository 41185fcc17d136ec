"""A small recogniser of 16 kHz from random weights, on a world's recordings.

Command:   python benchmarks/claims.py --world WORLD --only ctc
Hardware:  two CPU cores. Duration and score: docs/claims.md.
"""

from benchmarks.claims_worlds import settings
from mrl_jax.training.ctc.config import CtcExperiment


def get_config() -> CtcExperiment:
    return settings.recogniser(16_000)
