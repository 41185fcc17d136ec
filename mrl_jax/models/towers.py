"""The kinds of towers that a folder may hold; a new kind is one line here."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from flax import nnx

from mrl_jax.models.ctc import abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig, abstract_hubert
from mrl_jax.models.qwen3 import Qwen3Config, abstract_qwen3


@dataclasses.dataclass(frozen=True)
class TowerKind:
    """One kind of tower.

    Attributes:
        family: name of its family of published checkpoints, as the converters call it.
        modality: what it reads.
        config: dataclass of its sizes.
        abstract: (config, **options) to the encoder with shapes in place of weights.
        abstract_recogniser: (config, vocab_size, *, vocabulary, **options) to the same of the
            encoder with its output layer, in `encoder` and `lm_head`; None without one.
    """

    family: str
    modality: Literal["speech", "text"]
    config: type[Any]
    abstract: Callable[..., nnx.Module]
    abstract_recogniser: Callable[..., Any] | None = None


TOWERS = {
    "qwen3": TowerKind("qwen3", "text", Qwen3Config, abstract_qwen3),
    "hubert": TowerKind("hubert", "speech", HubertConfig, abstract_hubert),
    "hubert_ctc": TowerKind("hubert", "speech", HubertConfig, abstract_hubert, abstract_hubert_ctc),
}
"""By the kind that tower.json names."""


RECOGNISERS = tuple(name for name, kind in TOWERS.items() if kind.abstract_recogniser)
"""The kinds with an output layer."""


def kinds_of(group: Literal["speech", "text"] | type[Any]) -> tuple[str, ...]:
    """The kinds that read speech, those that read text, or those of a config class."""
    return tuple(name for name, kind in TOWERS.items() if group in (kind.modality, kind.config))
