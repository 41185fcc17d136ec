"""One experiment: its config, and the model and data that are built from it."""

import dataclasses
from pathlib import Path
from typing import Literal

from flax import nnx

from mrl_jax.checkpoints.towers import load_qwen3, load_speech_tower
from mrl_jax.core.array_types import DTYPES
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.augment import Augment, check_augment
from mrl_jax.data.batches.speech import BatchConfig
from mrl_jax.data.build.builder import BUILD_FILE, BuildOptions, BuildReport, build_dataset
from mrl_jax.data.cache.speech import CACHE_DTYPES, CacheDtype
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.heads import HEADS
from mrl_jax.models.speech_tower import Padding
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig
from mrl_jax.training.trainer import check_dims


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: its towers, and how they are joined.

    Attributes:
        kind: "late_fusion": speech goes through the text tower; "dual_encoder": its frames
            are pooled beside it.
        nested: of a dual encoder: one linear layer whose prefixes serve, instead of one
            for each of loss.dims.
        speech_tower: folder made by `python -m converters hubert`.
        text_tower: folder made by `python -m converters qwen3`.
        end_token: of late fusion: close the speech with the end token of texts, and pool there; the
            published head pools the last speech token.
        padding: "masked", or "reference" to read padding as speech.
        dtype: of the towers, "bfloat16" or "float32"; head and loss are float32.
        remat: recompute layers whole in the backward pass: slower by a fifth, for the memory of
            long clips or large towers.
        calibrate: scale what goes into and out of a new head to the towers' own sizes,
            by fixed factors that are multiplied into its weights at the end.
        start: the new head's weights: "random", or (late fusion only) "ctc": such that it
            spells what the CTC layer of the speech tower hears, see `head_start.py`.
    """

    kind: str = "late_fusion"
    nested: bool = False
    speech_tower: str = "towers/speech"
    text_tower: str = "towers/text"
    end_token: bool = True
    padding: Padding = "masked"
    dtype: str = "bfloat16"
    remat: bool = False
    calibrate: bool = True
    start: Literal["random", "ctc"] = "random"

    def __post_init__(self) -> None:
        if self.kind not in HEADS:
            raise MrlError(f"model.kind is {self.kind!r}, expected {' or '.join(HEADS)}")
        if self.nested and self.kind != "dual_encoder":
            raise MrlError(
                "model.nested is of dual encoders: late fusion is always nested",
                hint="set model.kind=dual_encoder as well, or leave model.nested out",
            )
        if self.padding not in ("masked", "reference"):
            raise MrlError(f"model.padding is {self.padding!r}, expected masked or reference")
        if self.start not in ("random", "ctc"):
            raise MrlError(f"model.start is {self.start!r}, expected random or ctc")
        if self.start == "ctc" and self.kind != "late_fusion":
            raise MrlError(
                "model.start=ctc is of late fusion: a dual encoder has no tokens to spell with",
                hint="set model.start=random",
            )
        if self.dtype not in DTYPES:
            raise MrlError(f"model.dtype is {self.dtype!r}, expected {' or '.join(DTYPES)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on, and what is measured meanwhile.

    Attributes:
        train: a manifest, a folder of Parquet files, or a data set built from one by
            `python -m mrl_jax.data.build`.
        split: which split of it.
        validation: a retrieval set; none if empty.
        batch: how examples become batches.
        build: how a manifest is built into a data set, inside the workdir.
        store: folder of the documents' vectors, which a run makes where it is not there and
            later ones read: the text tower then embeds each document once. None if empty.
        speech_cache: the same of what the speech tower says of the clips; large, see
            `data.speech_cache`.
        speech_cache_dtype: "bfloat16", "int8" for half of the space, or "float32".
    """

    train: str = "data/train.jsonl"
    split: str = "train"
    validation: str = ""
    batch: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    build: BuildOptions = dataclasses.field(default_factory=BuildOptions)
    store: str = ""
    speech_cache: str = ""
    speech_cache_dtype: CacheDtype = "bfloat16"

    def __post_init__(self) -> None:
        if self.speech_cache_dtype not in CACHE_DTYPES:
            raise MrlError(
                f"data.speech_cache_dtype is {self.speech_cache_dtype!r}, expected one of "
                f"{', '.join(CACHE_DTYPES)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything about a run. The defaults are the paper's speech run.

    Attributes:
        name: of the run; its workdir is runs/NAME by default.
        seed: of the head's weights, the order of the data, and augmentation.
        augment: changes training clips: a function, or a name of
            `data.audio.augment.AUGMENTATIONS`.
        stretch: the most that `augment` makes a clip longer by.
    """

    name: str
    seed: int = 0
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    augment: Augment | str | None = None
    stretch: float = 1.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise MrlError(f"seed is {self.seed}, expected a whole number from 0 on")
        check_augment(self.augment)
        if self.data.speech_cache and self.augment is not None:
            raise MrlError(
                "data.speech_cache keeps what is heard of a clip, and augment would change that",
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
    learn, temperature = config.loss.learn_temperature, config.loss.temperature
    options = {
        "dims": () if config.model.nested else config.loss.dims,
        "nested": config.model.nested,
        "end_token": tokenizer.end_id if config.model.end_token else None,
        "learn_temperature": learn,
        "initial_temperature": temperature,
    }
    kind = HEADS[config.model.kind]
    return kind.build(speech, text, kind.configure(options), rngs=nnx.Rngs(config.seed))


def prepare_data(config: ExperimentConfig, workdir: Path) -> tuple[Path, BuildReport | None]:
    """The built data set, from a manifest where it has to be built first."""
    source = Path(config.data.train)
    if (source / BUILD_FILE).is_file():
        return source, None
    report = build_dataset(source, workdir / "data", options=config.data.build, overwrite=True)
    return report.out, report
