"""Options of `mrl-jax eval spectrum`."""

from dataclasses import dataclass

from mrl_jax.evaluation.report.options import SetOptions


@dataclass(frozen=True, kw_only=True)
class SpectrumOptions(SetOptions):
    """Only what all such reports take; `dims` are measured beside the powers of two."""
