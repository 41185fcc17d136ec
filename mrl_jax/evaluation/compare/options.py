"""Options of `mrl-jax eval compare`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mrl_jax.evaluation.report.options import DIMS, QueryOptions, option


@dataclass(frozen=True, kw_only=True)
class CompareOptions(QueryOptions):
    """Which systems are compared."""

    models: Sequence[str] = field(
        metadata=option(
            "trained models or cascades: NAME=DIR, or DIR for one called as its folder; DIR may be "
            "OWNER/NAME on the hub",
            flags=("--models", "--model"),
            nargs="+",
            action="extend",
        )
    )
    dims: Sequence[int] | None = field(default=None, metadata=DIMS)
