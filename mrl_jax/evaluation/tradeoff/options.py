"""Options of `mrl-jax eval tradeoff`."""

from dataclasses import dataclass, field

from mrl_jax.evaluation.report.options import SetOptions, option


@dataclass(frozen=True, kw_only=True)
class TradeoffOptions(SetOptions):
    """What is searched, and within which budget; `dims` are prefixes, and ranks.

    Attributes:
        corpus_size: documents that latency and work are measured at; the set's by default.
        shortlist: documents that funnels and searches by signs score again; by default a
            tenth of the set's, 10 to 100, whatever `corpus_size` is.
        budget: as `parse_budget` reads it.
    """

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
