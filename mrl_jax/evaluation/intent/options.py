"""Options of `mrl-jax eval intent`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mrl_jax.evaluation.intent.classifiers import CLASSIFIERS
from mrl_jax.evaluation.intent.measure import FEATURES
from mrl_jax.evaluation.report.options import ModelOptions, integers, names, option


@dataclass(frozen=True, kw_only=True)
class IntentOptions(ModelOptions):
    """How intents are classified; `data` may be a table as well."""

    shots: Sequence[int] = field(
        default=(0, 1, 4, 8, 16),
        metadata=option(
            "examples a label, 0 for the nearest label text; default: 0,1,4,8,16",
            type=integers("--shots", least=0),
        ),
    )
    seeds: int = field(default=5, metadata=option("draws of the examples; default: 5", type=int))
    classifiers: Sequence[str] = field(
        default=tuple(CLASSIFIERS),
        metadata=option(
            "of few examples: mteb (MTEB's fixed logistic regression), cv (standardised "
            "coordinates, penalty by cross-validation on the examples), or both: mteb,cv",
            type=names("--classifiers", tuple(CLASSIFIERS)),
        ),
    )
    features: str = field(
        default=FEATURES[0],
        metadata=option(
            "what they read: pooled (the embedding), or pooled+tokens (means over the text "
            "tower's tokens beside it, which late fusion has)",
            choices=FEATURES,
        ),
    )
    prompt: str | None = field(
        default=None, metadata=option("put before what is classified, word for word")
    )
    label_format: str = field(
        default="{}", metadata=option("how a label becomes a text: {} is its place; default: {}")
    )
