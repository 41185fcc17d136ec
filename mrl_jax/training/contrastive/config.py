"""One experiment: its config, and the model that is built from it."""

import dataclasses
import math
from typing import Any, Literal, get_args

from flax import nnx

from mrl_jax.checkpoints.models import load_speech_side
from mrl_jax.checkpoints.towers import load_qwen3, read_info
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import DTYPES
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import PathText, user_path
from mrl_jax.data.batches.speech import BatchConfig
from mrl_jax.data.cache.speech_shard import CACHE_DTYPES, CacheDtype
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.losses.config import LossConfig
from mrl_jax.losses.registry import LOSSES
from mrl_jax.models.ctc import HubertCtc
from mrl_jax.models.ctc_tokens import tokens_of_outputs
from mrl_jax.models.fusion import FusionConfig
from mrl_jax.models.heads import HEADS
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.soft_ctc import Residual, SoftCtcConfig
from mrl_jax.models.speech_tower import Padding
from mrl_jax.models.towers import RECOGNISERS, kinds_of
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.training.config import ComputeConfig, check_choice, check_dims
from mrl_jax.training.negatives import check_batch_size
from mrl_jax.training.speech_data import SpeechDataConfig, SpeechRunConfig

HeadInit = Literal["random", "ctc"]
HeadName = Literal["linear", "soft_ctc"]
KINDS = tuple(name for name in HEADS if name not in get_args(HeadName))
"""What `model.kind` may be: `model.head` says which late fusion."""
SOFT_FIELDS = (
    "compress_blank",
    "blank_weight",
    "max_tokens_per_second",
    "logit_temperature",
    "residual",
    "lora_rank",
)
"""Fields of `ModelConfig` that a soft head alone reads."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(ComputeConfig):
    """The model: its towers, and how they are joined.

    Attributes:
        kind: "late_fusion": speech goes through the text tower; "dual_encoder": its frames
            are pooled beside it.
        head: of late fusion: "linear", the published one, or "soft_ctc", which reads the speech
            tower's own CTC layer and needs no training (`models.soft_ctc`). The next six are
            for the latter, and refused with any other head.
        compress_blank: frames whose blank is more probable are dropped, and runs of one token are
            averaged; none keeps 25 speech tokens a second.
        blank_weight: of the blank in an averaged run, relative to the tokens.
        max_tokens_per_second: room for speech tokens, which the text tower's time grows with; a
            clip that has more is refused.
        logit_temperature: what the CTC layer's logits are divided by at first.
        residual: what a trained linear map of all layers' states is added to: "logits",
            "frames", or "none".
        lora_rank: of trained changes to the text tower's attention, for speech only.
        nested: of a dual encoder: one linear layer with nested prefixes, instead of one
            layer for each of loss.dims.
        speech_tower: folder made by `mrl-jax convert hubert`.
        text_tower: folder made by `mrl-jax convert qwen3`, or `tower/` of a text stage's run.
        end_token: of late fusion: pool at an end token after the speech, as for texts; the
            published head pools the last speech token, and "soft_ctc" needs the end token.
        padding: "masked", or "reference" to read padding as speech.
        frozen_dtype: "int8" holds the kernels of the frozen towers' layers in eight bits, which is
            half of bfloat16's memory; empty for `dtype`.
        calibrate: scale what goes into and out of a new head to the towers' own sizes,
            by fixed factors that are multiplied into its weights at the end.
        head_init: the new head's weights: "random", or (late fusion only) "ctc": such that it
            gives the tokens that the CTC layer of the speech tower predicts, see `ctc_init`.
    """

    kind: str = "late_fusion"
    head: HeadName = "linear"
    compress_blank: float | None = SoftCtcConfig.compress_blank
    blank_weight: float = SoftCtcConfig.blank_weight
    max_tokens_per_second: float = SoftCtcConfig.max_tokens_per_second
    logit_temperature: float = SoftCtcConfig.logit_temperature
    residual: Residual = SoftCtcConfig.residual
    lora_rank: int = SoftCtcConfig.lora_rank
    nested: bool = False
    speech_tower: PathText = "towers/speech"
    text_tower: PathText = "towers/text"
    end_token: bool = True
    padding: Padding = "masked"
    frozen_dtype: str = ""
    calibrate: bool = True
    head_init: HeadInit = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.kind", self.kind, KINDS)
        check_choice("model.head", self.head, get_args(HeadName))
        check_choice("model.residual", self.residual, get_args(Residual))
        if self.head == "soft_ctc":
            self._check_soft()
        else:
            self._refuse_soft_fields()
        check_choice("model.padding", self.padding, get_args(Padding))
        check_choice("model.head_init", self.head_init, get_args(HeadInit))
        if self.frozen_dtype:
            check_choice("model.frozen_dtype", self.frozen_dtype, ("int8",))
        if self.nested and self.kind != "dual_encoder":
            raise MrlError(
                "model.nested is for dual encoders: late fusion is always nested",
                hint="set model.kind=dual_encoder as well, or leave model.nested out",
            )
        if self.head_init == "ctc" and self.head_kind != "late_fusion":
            raise MrlError(
                "model.head_init=ctc is for late fusion with a linear head: a dual encoder has no "
                "tokens, and a soft head reads the CTC layer itself",
                hint="set model.head_init=random",
            )

    @property
    def head_kind(self) -> str:
        """The entry of `models.heads.HEADS`."""
        return self.kind if self.head == "linear" else self.head

    def _check_soft(self) -> None:
        if self.kind != "late_fusion":
            raise MrlError(
                "model.head=soft_ctc is for late fusion, and model.kind is a dual encoder",
                hint="set model.kind=late_fusion, or leave model.head out",
            )
        if not self.end_token:
            raise MrlError(
                "model.end_token is false, and model.head=soft_ctc pools at the end token: a clip "
                "of silence has no other",
                hint="leave model.end_token out",
            )
        if self.compress_blank is not None and not 0 < self.compress_blank <= 1:
            raise MrlError(
                f"model.compress_blank is {self.compress_blank}, expected above 0 up to 1, or none"
            )
        if not 0 <= self.blank_weight <= 1:
            raise MrlError(f"model.blank_weight is {self.blank_weight}, expected 0 to 1")
        for name in ("max_tokens_per_second", "logit_temperature"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise MrlError(f"model.{name} is {value}, expected above 0")
        if self.lora_rank < 0:
            raise MrlError(f"model.lora_rank is {self.lora_rank}, expected 0 or more")

    def _refuse_soft_fields(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in SOFT_FIELDS and getattr(self, field.name) != field.default:
                raise MrlError(
                    f"model.{field.name} is for a soft head, and model.head is {self.head}",
                    hint=f"set model.head=soft_ctc as well, or leave model.{field.name} out",
                )


@checked
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
    document_cache: PathText = ""
    speech_cache: PathText = ""
    speech_cache_dtype: CacheDtype = "bfloat16"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("data.speech_cache_dtype", self.speech_cache_dtype, CACHE_DTYPES)


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig(SpeechRunConfig):
    """Everything about a run. The defaults are the paper's speech run."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if LOSSES[self.loss.name].contrastive:
            check_batch_size(self.data.batch.batch_size)
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


@checked
def build_model(config: ExperimentConfig, tokenizer: TextTokenizer) -> TwoTowers:
    """Towers from their folders, and a new head."""
    model, kind = config.model, HEADS[config.model.head_kind]
    dtype = DTYPES[model.dtype]
    if kind.recogniser:
        _check_recogniser(model.speech_tower)
    options: dict[str, Any] = {"dtype": dtype, "verify": config.train.verify}
    options["int8"] = model.frozen_dtype == "int8"
    speech = load_speech_side(kind, model.speech_tower, padding=model.padding, **options)
    text = load_qwen3(model.text_tower, remat=model.remat, **options)
    check_dims(config.loss.dims, text.config.embed_width, model.text_tower)
    if issubclass(kind.config, FusionConfig):
        _check_reads_speech(text.config, tokenizer, end_token=model.end_token)
    options = {
        **dataclasses.asdict(model),
        "dims": () if model.nested else config.loss.dims,
        "end_token": tokenizer.end_id if model.end_token else None,
        "learn_temperature": config.loss.learn_temperature,
        "initial_temperature": config.loss.temperature,
    }
    if kind.recogniser:
        options |= _ctc_options(speech, tokenizer, model.speech_tower)
    return kind.build(speech, text, kind.configure(options), rngs=nnx.Rngs(config.seed))


def _check_reads_speech(text: Qwen3Config, tokenizer: TextTokenizer, *, end_token: bool) -> None:
    """Refuses late fusion with a text tower whose texts begin or end as speech tokens cannot."""
    where, hint = tokenizer.path.parent, "take a dual encoder: model.kind=dual_encoder"
    if text.pooling == "cls" or tokenizer.prefix:
        raise MrlError(
            "pools the first token"
            if text.pooling == "cls"
            else "begins every text by a token "
            "of its own, which late fusion does not put before the speech",
            where=where,
            hint=hint,
        )
    if end_token and tokenizer.end_id is None:
        problem = "puts no token behind a text, and model.end_token is true"
        raise MrlError(problem, where=where, hint="set model.end_token=false")


def _check_recogniser(folder: str) -> None:
    kind = read_info(user_path(folder)).kind
    if kind in kinds_of("speech") and kind not in RECOGNISERS:
        raise MrlError(
            "the speech tower has no CTC layer, and model.head=soft_ctc reads one",
            where=folder,
            hint="train it with `mrl-jax train --config ctc`, or set model.head=linear",
        )


def _ctc_options(recogniser: HubertCtc, tokenizer: TextTokenizer, folder: str) -> dict[str, Any]:
    if recogniser.vocabulary is None:
        raise MrlError(
            "the recogniser has no vocabulary, and model.head=soft_ctc needs one",
            where=folder,
            hint="convert it from a folder with vocab.json, or set model.head=linear",
        )
    return {
        "outputs": tokens_of_outputs(recogniser.vocabulary, tokenizer, where=folder),
        "blank": recogniser.vocabulary.blank,
        "rest": tokenizer.unknown_id,
    }
