"""Options of `mrl-jax eval retrieval`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mrl_jax.evaluation.report.options import SetOptions, integers, option


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(SetOptions):
    """How rankings are scored."""

    ks: Sequence[int] = field(
        default=(1, 5, 10), metadata=option("ranks to cut at: 1,5,10", type=integers("--ks"))
    )
    ties: Literal["trec", "id"] = field(
        default="trec",
        metadata=option(
            "which of two equal scores is first: trec (descending id, default) or id (ascending)",
            choices=("trec", "id"),
        ),
    )
    binary: bool = field(
        default=False, metadata=option("count every grade above 0 as 1", action="store_true")
    )
