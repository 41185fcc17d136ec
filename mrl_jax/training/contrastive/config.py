"""One experiment: its config, and the model that is built from it."""

import dataclasses
from typing import Literal, get_args

from flax import nnx

from mrl_jax.checkpoints.towers import load_qwen3, load_speech_tower
from mrl_jax.core.array_types import DTYPES
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.speech import BatchConfig
from mrl_jax.data.cache.speech import CACHE_DTYPES, CacheDtype
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.heads import HEADS
from mrl_jax.models.speech_tower import Padding
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.training.config import ComputeConfig, check_choice, check_dims
from mrl_jax.training.speech_data import SpeechDataConfig, SpeechRunConfig

HeadInit = Literal["random", "ctc"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(ComputeConfig):
    """The model: its towers, and how they are joined.

    Attributes:
        kind: "late_fusion": speech goes through the text tower; "dual_encoder": its frames
            are pooled beside it.
        nested: of a dual encoder: one linear layer with nested prefixes, instead of one
            layer for each of loss.dims.
        speech_tower, text_tower: folders made by `mrl-jax convert`.
        end_token: of late fusion: pool at an end token after the speech, as for texts; the
            published head pools the last speech token.
        padding: "masked", or "reference" to read padding as speech.
        calibrate: scale what goes into and out of a new head to the towers' own sizes,
            by fixed factors that are multiplied into its weights at the end.
        head_init: the new head's weights: "random", or (late fusion only) "ctc": such that it
            gives the tokens that the CTC layer of the speech tower predicts, see `ctc_init`.
    """

    kind: str = "late_fusion"
    nested: bool = False
    speech_tower: str = "towers/speech"
    text_tower: str = "towers/text"
    end_token: bool = True
    padding: Padding = "masked"
    calibrate: bool = True
    head_init: HeadInit = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.kind", self.kind, HEADS)
        check_choice("model.padding", self.padding, get_args(Padding))
        check_choice("model.head_init", self.head_init, get_args(HeadInit))
        if self.nested and self.kind != "dual_encoder":
            raise MrlError(
                "model.nested is for dual encoders: late fusion is always nested",
                hint="set model.kind=dual_encoder as well, or leave model.nested out",
            )
        if self.head_init == "ctc" and self.kind != "late_fusion":
            raise MrlError(
                "model.head_init=ctc is for late fusion: a dual encoder has no tokens",
                hint="set model.head_init=random",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(SpeechDataConfig):
    """The recordings and documents, and what is computed of them once.

    Attributes:
        batch: how examples become batches.
        document_cache: folder of the documents' vectors, made where it is not there, so that the
            text tower embeds each document once for all runs. None if empty.
        speech_cache: the same of the speech tower's layer states of every clip; large, see
            `data.cache.speech`.
        speech_cache_dtype: "bfloat16", "int8" for half of the space, or "float32".
    """

    batch: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    document_cache: str = ""
    speech_cache: str = ""
    speech_cache_dtype: CacheDtype = "bfloat16"

    def __post_init__(self) -> None:
        check_choice("data.speech_cache_dtype", self.speech_cache_dtype, CACHE_DTYPES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig(SpeechRunConfig):
    """Everything about a run. The defaults are the paper's speech run."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.speech_cache and self.augment is not None:
            raise MrlError(
                "data.speech_cache holds the states of unchanged clips, and augment changes them",
                hint="leave one of the two out",
            )
        if self.data.speech_cache and self.model.padding != "masked":
            raise MrlError(
                "data.speech_cache keeps each clip by itself, and "
                f"model.padding={self.model.padding} makes it depend on its batch",
                hint="set model.padding=masked, or leave data.speech_cache out",
            )


def build_model(config: ExperimentConfig, tokenizer: TextTokenizer) -> TwoTowers:
    """Towers from their folders, and a new head."""
    dtype = DTYPES[config.model.dtype]
    speech = load_speech_tower(config.model.speech_tower, padding=config.model.padding, dtype=dtype)
    text = load_qwen3(config.model.text_tower, dtype=dtype, remat=config.model.remat)
    check_dims(config.loss.dims, text.config.width, config.model.text_tower)
    options = {
        "dims": () if config.model.nested else config.loss.dims,
        "nested": config.model.nested,
        "end_token": tokenizer.end_id if config.model.end_token else None,
        "learn_temperature": config.loss.learn_temperature,
        "initial_temperature": config.loss.temperature,
    }
    kind = HEADS[config.model.kind]
    return kind.build(speech, text, kind.configure(options), rngs=nnx.Rngs(config.seed))
