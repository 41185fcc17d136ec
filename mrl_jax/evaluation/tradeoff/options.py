"""Options of `mrl-jax eval tradeoff`."""

from dataclasses import dataclass, field

from mrl_jax.evaluation.report.options import SetOptions, option


@dataclass(frozen=True, kw_only=True)
class TradeoffOptions(SetOptions):
    """What is searched, and within which budget; `dims` are prefixes, and ranks of projections."""

    corpus_size: int | None = field(
        default=None,
        metadata=option("documents to measure latency at; default: the set's", type=int),
    )
    shortlist: int | None = field(
        default=None,
        metadata=option(
            "documents that funnels score again; default: a tenth of the set's, 10 to 100", type=int
        ),
    )
    budget: str | None = field(
        default=None,
        metadata=option(
            "write the best search config within it into the model: bytes=128 or "
            "latency_ms=5,flops=1e6"
        ),
    )
