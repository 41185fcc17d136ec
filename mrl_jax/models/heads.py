"""What may join two frozen towers; a new head is one line here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from mrl_jax.models.ctc import HubertCtc
from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.soft_ctc import SoftCtc, SoftCtcConfig
from mrl_jax.models.speech_tower import SpeechTower
from mrl_jax.models.two_towers import HeadConfig, TwoTowers


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadKind:
    """One kind of head.

    Attributes:
        config: dataclass of what it adds to the towers.
        model: built as model(speech, text, config=config, rngs=rngs).
        recogniser: whether `speech` is a recogniser, whose CTC layer the head reads.
    """

    config: type[HeadConfig]
    model: type[TwoTowers]
    recogniser: bool = False

    def configure(self, options: Mapping[str, Any]) -> HeadConfig:
        """Its config from those of the options that it has a field for."""
        names = {field.name for field in dataclasses.fields(self.config)}
        return self.config(**{name: value for name, value in options.items() if name in names})

    def build(
        self,
        speech: SpeechTower | HubertCtc,
        text: Qwen3Encoder,
        config: HeadConfig,
        *,
        rngs: nnx.Rngs,
    ) -> TwoTowers:
        """A model with a new head, whose initial weights come from the stream `params`."""
        model: Any = self.model
        return model(speech, text, config=config, rngs=rngs)


HEADS: dict[str, HeadKind] = {
    "late_fusion": HeadKind(config=LateFusionConfig, model=LateFusion),
    "soft_ctc": HeadKind(config=SoftCtcConfig, model=SoftCtc, recogniser=True),
    "dual_encoder": HeadKind(config=DualEncoderConfig, model=DualEncoder),
}
"""By the kind that model.json names; an experiment says `model.kind` and `model.head`."""
