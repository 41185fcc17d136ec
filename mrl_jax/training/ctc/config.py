"""CTC training: its config, and the recogniser that is built from it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.checkpoints.towers import TowerInfo, load_hubert, load_hubert_ctc, read_info
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import DTYPES, HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import PathText, user_path
from mrl_jax.data.batches.ctc import CtcBatchConfig, MaskConfig
from mrl_jax.data.build.utterances import Column, check_column
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc, abstract_hubert_ctc, character_vocabulary
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.init import initial_recogniser, start_as_filterbank
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.text_vocabulary import text_tower_vocabulary
from mrl_jax.models.towers import kinds_of
from mrl_jax.nn import param_tree
from mrl_jax.training.config import ComputeConfig, check_choice, refuse_fsdp
from mrl_jax.training.speech_data import SpeechDataConfig, SpeechRunConfig

VOCABULARIES = ("characters", "tower", "text_tower")


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcModelConfig(ComputeConfig):
    """The recogniser.

    Attributes:
        speech_tower: folder made by `mrl-jax convert hubert`, with or without an output
            layer; empty begins at random weights.
        sizes: of the encoder, where it begins at random.
        filterbank: whether its first convolution then begins as a bank of filters; it takes
            a kernel of 16 ms or so.
        vocabulary: "characters": a new output layer over those of the training transcripts;
            "text_tower": a new one over the tokens of a text tower that occur in them;
            "tower": the output layer and tokens that the speech tower has.
        text_tower: folder of that text tower, for its tokenizer; also where the tokens that the
            speech tower has are those of a text tower.
        freeze_convolutions: leave the tower's convolutions as they are.
    """

    dtype: str = "float32"
    speech_tower: PathText = "towers/speech"
    sizes: HubertConfig = dataclasses.field(default_factory=HubertConfig.base)
    filterbank: bool = False
    vocabulary: str = "characters"
    text_tower: PathText = ""
    freeze_convolutions: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary == "data":  # The earlier name of "characters".
            expected = f"expected {' or '.join(VOCABULARIES)}"
            raise MrlError(
                f"model.vocabulary is 'data', {expected}", hint="did you mean characters?"
            )
        check_choice("model.vocabulary", self.vocabulary, VOCABULARIES)
        if self.vocabulary == "text_tower" and not self.text_tower:
            raise MrlError(
                "model.vocabulary is text_tower, and model.text_tower is empty",
                hint="set model.text_tower to the folder of the text tower",
            )
        if self.vocabulary == "characters" and self.text_tower:
            raise MrlError(
                f"model.text_tower is {self.text_tower}, and model.vocabulary=characters takes "
                "none",
                hint="set model.vocabulary=text_tower, or leave model.text_tower out",
            )
        if not self.speech_tower and (self.vocabulary == "tower" or self.freeze_convolutions):
            raise MrlError(
                "model.vocabulary=tower and model.freeze_convolutions take a tower, and "
                "model.speech_tower is empty",
                hint="name a tower, or set model.vocabulary=characters and "
                "model.freeze_convolutions=false",
            )
        if self.speech_tower and self.filterbank:
            raise MrlError(
                "model.filterbank is for random weights, and model.speech_tower names a tower",
                hint="leave one of the two out",
            )


@checked
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
        super().__post_init__()
        check_column(self.transcripts, "data.transcripts")


@checked
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


@checked
def read_tower(config: CtcModelConfig) -> TowerInfo | None:
    """The description of the tower to begin with; None for random weights."""
    if not config.speech_tower:
        return None
    info = read_info(user_path(config.speech_tower), expected=kinds_of(HubertConfig))
    if config.vocabulary != "tower":
        return info
    if info.vocabulary is None:
        raise MrlError(
            "has no vocabulary of its own",
            where=config.speech_tower,
            hint="set model.vocabulary=characters",
        )
    if bool(info.vocabulary.text_ids) != bool(config.text_tower):
        raise MrlError(
            "its tokens are those of a text tower, and model.text_tower is empty"
            if info.vocabulary.text_ids
            else "its tokens are not those of a text tower, and model.text_tower names one",
            where=config.speech_tower,
            hint="set model.text_tower to the folder of the text tower"
            if info.vocabulary.text_ids
            else "leave model.text_tower out, or set model.vocabulary=text_tower",
        )
    return info


@checked
def read_tokenizer(config: CtcModelConfig) -> TextTokenizer | None:
    """The tokenizer of the text tower, where transcripts are spelled in its tokens."""
    if not config.text_tower:
        return None
    read_info(user_path(config.text_tower), expected=kinds_of(Qwen3Config))
    return TextTokenizer(config.text_tower)


@checked
def choose_vocabulary(
    config: CtcModelConfig,
    tower: TowerInfo | None,
    transcripts: Sequence[str],
    tokenizer: TextTokenizer | None,
) -> CtcVocabulary:
    """The output tokens: the tower's own, or the text tower's or characters of the transcripts."""
    if config.vocabulary == "tower" and tower is not None and tower.vocabulary is not None:
        return tower.vocabulary
    if tokenizer is not None:
        vocabulary = text_tower_vocabulary(transcripts, tokenizer)
        size = read_info(user_path(config.text_tower)).config.vocab_size
        if max(vocabulary.text_ids) >= size:
            raise MrlError(
                f"the tokenizer gives the id {max(vocabulary.text_ids)}, and the tower has "
                f"{size} embeddings",
                where=config.text_tower,
                hint="put the tokenizer.json of its own checkpoint beside it",
            )
        return vocabulary
    return character_vocabulary(transcripts)


@checked
def build_recogniser(
    config: CtcModelConfig,
    tower: TowerInfo | None,
    vocabulary: CtcVocabulary,
    seed: int,
    *,
    verify: bool = True,
) -> HubertCtc:
    """The recogniser before the first step; what is to be trained is `nnx.Param`."""
    load: Any = {"dtype": jnp.float32, "verify": verify}
    sizes = config.sizes if tower is None else tower.config
    assert isinstance(sizes, HubertConfig)
    weights: dict[str, Any] = {}
    if tower is None:
        model = initial_recogniser(sizes, vocabulary, seed)
        model = start_as_filterbank(model) if config.filterbank else model
        weights |= _arrays(model)
    elif config.vocabulary == "tower":
        weights |= _arrays(load_hubert_ctc(config.speech_tower, **load))
    elif tower.vocabulary is not None:
        weights |= _arrays(load_hubert_ctc(config.speech_tower, **load))
        weights |= output_layer(vocabulary, sizes.width, seed, weights, tower.vocabulary)
    else:
        encoder = load_hubert(config.speech_tower, **load)
        weights |= {f"encoder.{path}": array for path, array in _arrays(encoder).items()}
        weights |= output_layer(vocabulary, sizes.width, seed)
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


@checked
def output_layer(
    vocabulary: CtcVocabulary,
    width: int,
    seed: int,
    old_weights: Mapping[str, Any] | None = None,
    old: CtcVocabulary | None = None,
) -> dict[str, HostArray]:
    """A new output layer [width, V]: random, but for what an old one writes too.

    The blank begins as the old blank, and a token as the mean of the old outputs for its
    characters (without its spaces, unless it is one), where the old layer has all of them. So
    a recogniser of characters keeps its transcripts where the text tower's tokens are these.
    """
    drawn = np.random.default_rng(seed).standard_normal((width, len(vocabulary.tokens)))
    kernel = (drawn / np.sqrt(width)).astype(np.float32)
    bias = np.zeros(len(vocabulary.tokens), np.float32)
    if old_weights is not None and old is not None:
        before = {name: np.asarray(old_weights[f"lm_head.{name}"]) for name in ("kernel", "bias")}
        texts = {old.text_of(output): output for output in range(len(old.tokens))}
        known = {text.lower(): output for text, output in texts.items()} | texts
        for output in range(len(vocabulary.tokens)):
            text = vocabulary.text_of(output)
            letters = [""] if output == vocabulary.blank else list(text.strip() or text)
            if all(letter in known for letter in letters):
                columns = [known[letter] for letter in letters]
                kernel[:, output] = before["kernel"][:, columns].mean(axis=1)
                bias[output] = before["bias"][columns].mean()
    return {"lm_head.kernel": kernel, "lm_head.bias": bias}


def _arrays(module: nnx.Module) -> dict[str, Any]:
    return {path: leaf.get_value() for path, leaf in param_tree.flat_weights(module).items()}
