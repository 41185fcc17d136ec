"""The cascade of a world's recogniser and text tower, which reads the transcripts itself.

Command:   python benchmarks/claims.py --world WORLD --only cascade
Hardware:  two CPU cores. Duration and score: docs/claims.md.
"""

from benchmarks.claims_worlds import settings
from mrl_jax.inference.cascade_config import CascadeConfig


def get_config() -> CascadeConfig:
    return settings.cascade()
