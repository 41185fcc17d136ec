"""Options of `mrl-jax eval intent`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mrl_jax.evaluation.report.options import ModelOptions, integers, option


@dataclass(frozen=True, kw_only=True)
class IntentOptions(ModelOptions):
    """How intents are learnt and asked for; `data` may be a table as well."""

    shots: Sequence[int] = field(
        default=(0, 1, 4, 8, 16),
        metadata=option(
            "examples a label, 0 for the nearest label text: 0,1,4,8,16",
            type=integers("--shots", least=0),
        ),
    )
    seeds: int = field(default=5, metadata=option("draws of the examples; default: 5", type=int))
    prompt: str | None = field(
        default=None, metadata=option("put before what is classified, word for word")
    )
    label_format: str = field(
        default="{}", metadata=option("how a label becomes a text: {} is its place; default: {}")
    )
