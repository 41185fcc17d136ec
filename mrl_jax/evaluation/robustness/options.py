"""Options of `mrl-jax eval robustness`."""

from dataclasses import dataclass

from mrl_jax.evaluation.report.options import SetOptions


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions(SetOptions):
    """Only what all such reports take."""
