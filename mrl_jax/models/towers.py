"""The kinds of towers that a folder may hold; a new kind is one line here."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from flax import nnx

from mrl_jax.core.arguments import checked
from mrl_jax.models.ctc import abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig, abstract_hubert
from mrl_jax.models.qwen3 import Qwen3Config, abstract_qwen3
from mrl_jax.models.wavlm import WavLMConfig, abstract_wavlm


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


def _speech(family: str, config: type[Any], abstract: Callable[..., Any]) -> dict[str, TowerKind]:
    """A speech encoder, and the same with a CTC output layer."""
    encoder = TowerKind(family, "speech", config, abstract)
    recogniser = dataclasses.replace(encoder, abstract_recogniser=abstract_hubert_ctc)
    return {family: encoder, f"{family}_ctc": recogniser}


TOWERS: dict[str, TowerKind] = {
    "qwen3": TowerKind("qwen3", "text", Qwen3Config, abstract_qwen3),
    **_speech("hubert", HubertConfig, abstract_hubert),
    **_speech("wav2vec2", HubertConfig, abstract_hubert),
    **_speech("unispeech_sat", HubertConfig, abstract_hubert),
    **_speech("wavlm", WavLMConfig, abstract_wavlm),
}
"""By the kind that tower.json names."""


RECOGNISERS = tuple(name for name, kind in TOWERS.items() if kind.abstract_recogniser)
"""The kinds with an output layer."""


@checked
def kinds_of(group: Literal["speech", "text"] | type[Any]) -> tuple[str, ...]:
    """The kinds that read speech, those that read text, or those of a config class."""
    if isinstance(group, str):
        return tuple(name for name, kind in TOWERS.items() if kind.modality == group)
    return tuple(name for name, kind in TOWERS.items() if issubclass(kind.config, group))


@checked
def describe_kinds(kinds: Sequence[str]) -> str:
    """What to call these kinds in an error: a group of them by its name."""
    for name, group in (
        ("a speech tower", kinds_of("speech")),
        ("a recogniser", RECOGNISERS),
        ("a text tower", kinds_of("text")),
    ):
        if set(kinds) == set(group) and len(group) > 1:
            return name
    return " or ".join(kinds)
