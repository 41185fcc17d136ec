"""CTC training: its config, and the recogniser that is built from it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.checkpoints.towers import TowerInfo, load_hubert, load_hubert_ctc, read_info
from mrl_jax.core.array_types import DTYPES
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.ctc import CtcBatchConfig, MaskConfig
from mrl_jax.data.build.utterances import Column, check_column
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc, abstract_hubert_ctc, character_vocabulary
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.init import initial_recogniser, start_as_filterbank
from mrl_jax.models.towers import kinds_of
from mrl_jax.nn import param_tree
from mrl_jax.training.config import ComputeConfig, check_choice, refuse_fsdp
from mrl_jax.training.speech_data import SpeechDataConfig, SpeechRunConfig

Spelling = Literal["data", "tower"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcModelConfig(ComputeConfig):
    """The recogniser.

    Attributes:
        speech_tower: folder made by `mrl-jax convert hubert`, with or without an output
            layer; empty begins at random weights.
        sizes: of the encoder, where it begins at random.
        filterbank: whether its first convolution then begins as a bank of filters; it takes
            a kernel of 16 ms or so.
        vocabulary: "data": a new output layer over the characters of the training
            transcripts; "tower": the output layer and characters that the tower has.
        freeze_convolutions: leave the tower's convolutions as they are.
    """

    dtype: str = "float32"
    speech_tower: str = "towers/speech"
    sizes: HubertConfig = dataclasses.field(default_factory=HubertConfig.base)
    filterbank: bool = False
    vocabulary: Spelling = "data"
    freeze_convolutions: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.speech_tower and (self.vocabulary == "tower" or self.freeze_convolutions):
            raise MrlError(
                "model.vocabulary=tower and model.freeze_convolutions take a tower, and "
                "model.speech_tower is empty",
                hint="name a tower, or set model.vocabulary=data and "
                "model.freeze_convolutions=false",
            )
        if self.speech_tower and self.filterbank:
            raise MrlError(
                "model.filterbank is for random weights, and model.speech_tower names a tower",
                hint="leave one of the two out",
            )
        check_choice("model.vocabulary", self.vocabulary, get_args(Spelling))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcDataConfig(SpeechDataConfig):
    """The recordings and their transcripts.

    Attributes:
        validation: a retrieval set of spoken queries, a manifest or a built data set; none if
            empty.
        transcripts: column of the transcripts: "transcript", or "text" where the document is
            the transcript.
        plain: whether transcripts are read in lower case and without punctuation, in
            training and validation.
        validation_split: of a manifest or a built data set.
        batch: how recordings become batches.
    """

    transcripts: Column = "transcript"
    plain: bool = True
    validation_split: str = ""
    batch: CtcBatchConfig = dataclasses.field(default_factory=CtcBatchConfig)

    def __post_init__(self) -> None:
        check_column(self.transcripts, "data.transcripts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcExperiment(SpeechRunConfig):
    """Everything about a recogniser's run.

    Attributes:
        masks: stretches and bands that are silenced in training clips, after `augment`.
    """

    model: CtcModelConfig = dataclasses.field(default_factory=CtcModelConfig)
    data: CtcDataConfig = dataclasses.field(default_factory=CtcDataConfig)
    masks: MaskConfig = dataclasses.field(default_factory=MaskConfig)

    def __post_init__(self) -> None:
        refuse_fsdp(self.train)
        super().__post_init__()


def read_tower(config: CtcModelConfig) -> TowerInfo | None:
    """The description of the tower to begin with; None for random weights."""
    if not config.speech_tower:
        return None
    info = read_info(Path(config.speech_tower), expected=kinds_of(HubertConfig))
    if config.vocabulary == "tower" and info.vocabulary is None:
        raise MrlError(
            "has no vocabulary of its own",
            where=config.speech_tower,
            hint="set model.vocabulary=data",
        )
    return info


def choose_vocabulary(
    config: CtcModelConfig, tower: TowerInfo | None, transcripts: Sequence[str]
) -> CtcVocabulary:
    """The output tokens: the tower's own, or the characters of the transcripts."""
    if config.vocabulary == "tower" and tower is not None and tower.vocabulary is not None:
        return tower.vocabulary
    return character_vocabulary(transcripts)


def build_recogniser(
    config: CtcModelConfig, tower: TowerInfo | None, vocabulary: CtcVocabulary, seed: int
) -> HubertCtc:
    """The recogniser before the first step; what is to be trained is `nnx.Param`."""
    sizes = config.sizes if tower is None else tower.config
    assert isinstance(sizes, HubertConfig)
    weights: dict[str, Any] = {}
    if tower is None:
        model = initial_recogniser(sizes, vocabulary, seed)
        model = start_as_filterbank(model) if config.filterbank else model
        weights |= _arrays(model)
    elif config.vocabulary == "tower":
        weights |= _arrays(load_hubert_ctc(config.speech_tower, dtype=jnp.float32))
    else:
        encoder = load_hubert(config.speech_tower, dtype=jnp.float32)
        weights |= {f"encoder.{path}": array for path, array in _arrays(encoder).items()}
        shape = (sizes.width, len(vocabulary.tokens))
        drawn = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        weights["lm_head.kernel"] = drawn / np.sqrt(sizes.width, dtype=np.float32)
        weights["lm_head.bias"] = np.zeros(shape[1], np.float32)
    module = abstract_hubert_ctc(
        sizes,
        len(vocabulary.tokens),
        vocabulary=vocabulary,
        dtype=DTYPES[config.dtype],
        param_dtype=jnp.float32,
        remat=config.remat,
    )
    model = param_tree.fill(module, weights)
    if config.freeze_convolutions:
        param_tree.freeze(model.encoder.feature_encoder)
    return model


def _arrays(module: nnx.Module) -> dict[str, Any]:
    return {path: leaf.get_value() for path, leaf in param_tree.flat_weights(module).items()}
