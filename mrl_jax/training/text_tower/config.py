"""One run of the text stage: its config, and the tower that it begins with."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from mrl_jax.checkpoints.new_towers import save_text_tower
from mrl_jax.checkpoints.towers import TOWER_FILE, read_info
from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import PathText, expand_paths, user_path
from mrl_jax.data.batches.text import TextBatchConfig, prompted
from mrl_jax.data.batches.token_noise import TokenNoise
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.train_tokenizer import Units, new_tokenizer, tokenizer_size
from mrl_jax.losses.config import LossConfig
from mrl_jax.losses.registry import LOSSES
from mrl_jax.models.init import initial_tower
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.towers import kinds_of
from mrl_jax.training.config import ComputeConfig, RunConfig, check_choice, refuse_fsdp
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.negatives import check_batch_size
from mrl_jax.training.optim import OptimConfig
from mrl_jax.training.trainer import has_checkpoint

INITIAL = "initial"
"""Folder of a new tower, in that of its run."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class NewTowerConfig:
    """A small tower with random weights, and a tokenizer made from the training texts.

    Attributes:
        units: what its tokens are: "pieces", "characters" or "words".
        max_pieces: size of a vocabulary of pieces.
        document_words: of "characters": words of the documents that no query has are one token
            each, so that only the queries' language is spelled.
        width, num_layers, num_heads, num_kv_heads, head_width, mlp_width: its sizes.
        rope_theta: base of the rotary angles.
        norm_epsilon: of its norms.
    """

    units: Units = "pieces"
    max_pieces: int = 2000
    document_words: bool = False
    width: int = 96
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_width: int = 32
    mlp_width: int = 192
    rope_theta: float = 1e4
    norm_epsilon: float = 1e-6

    def sizes(self, vocab_size: int) -> Qwen3Config:
        """The tower's own config."""
        sizes = dataclasses.asdict(self)
        del sizes["units"], sizes["max_pieces"], sizes["document_words"]
        return Qwen3Config(vocab_size=vocab_size, **sizes)

    def __post_init__(self) -> None:
        check_choice("model.new.units", self.units, get_args(Units))
        if self.document_words and self.units != "characters":
            raise MrlError(
                f"model.new.document_words is for characters, and model.new.units is {self.units}",
                hint="set model.new.units=characters, or leave model.new.document_words out",
            )
        sizes = ("width", "num_layers", "num_heads", "num_kv_heads", "head_width", "mlp_width")
        for name in sizes:
            if getattr(self, name) < 1:
                raise MrlError(f"model.new.{name} is {getattr(self, name)}, expected 1 or more")
        try:
            self.sizes(1)
        except ValueError as error:
            raise MrlError(str(error), where="model.new") from error


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextModelConfig(ComputeConfig):
    """The tower that is trained: whole, or by factors beside it (`train.text_lora`).

    Attributes:
        text_tower: folder made by `mrl-jax convert qwen3`; not read if `new` is set.
        new: a tower of random weights instead.
        dtype: of the computation, of frozen weights, and of the tower that is written; what is
            trained and its moments are kept in float32.
        frozen_dtype: "int8" holds the kernels of a frozen tower's layers in eight bits, see
            `nn.int8`; empty for `dtype`.
    """

    text_tower: PathText = "towers/text"
    new: NewTowerConfig | None = None
    frozen_dtype: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frozen_dtype:
            check_choice("model.frozen_dtype", self.frozen_dtype, ("int8",))


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """What is trained on, and what is measured meanwhile.

    Attributes:
        train: pairs with `query`, `document` and optionally `task_type`, `query_id` and
            `document_id`, in JSON Lines, CSV or Parquet.
        validation: a retrieval set with written queries (or transcripts); none if empty.
        batch: how pairs become batches.
    """

    train: PathText = "data/text_pairs.jsonl"
    validation: PathText = ""
    batch: TextBatchConfig = dataclasses.field(default_factory=TextBatchConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "data")


PAPER_OPTIM = OptimConfig(
    learning_rate=2e-5, schedule="cosine", warmup_fraction=0.1, accumulation_steps=16
)
PAPER_LENGTH = LoopConfig(epochs=2.0)


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextStageExperiment(RunConfig):
    """Everything about a run of the text stage. The defaults are the paper's."""

    model: TextModelConfig = dataclasses.field(default_factory=TextModelConfig)
    data: TextDataConfig = dataclasses.field(default_factory=TextDataConfig)
    noise: TokenNoise = dataclasses.field(default_factory=TokenNoise)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = PAPER_OPTIM
    train: LoopConfig = PAPER_LENGTH

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_fsdp(self.train)
        if self.model.frozen_dtype and not self.train.text_lora.rank:
            raise MrlError(
                f"model.frozen_dtype is {self.model.frozen_dtype!r}, and the whole tower is "
                "trained: weights in eight bits cannot be",
                hint="set train.text_lora.rank, or leave model.frozen_dtype out",
            )
        check_batch_size(self.data.batch.batch_size)
        if self.data.batch.pack and self.noise.is_on:
            raise MrlError(
                "data.batch.pack is true, and there is noise on the tokens of queries, which is "
                "for padded rows only",
                hint="leave data.batch.pack out, or the noise",
            )
        if not LOSSES[self.loss.name].contrastive:
            contrastive = " or ".join(name for name, loss in LOSSES.items() if loss.contrastive)
            raise MrlError(
                f"loss.name is {self.loss.name!r}, expected {contrastive}: both sides are "
                "trained here, and a regression of one onto the other collapses"
            )
        if self.loss.learn_temperature:
            raise MrlError("loss.learn_temperature is true, expected false for a text tower")


@checked
def prepare_tower(config: TextStageExperiment, pairs: Sequence[TextPair], workdir: Path) -> Path:
    """Folder of the tower to begin with; a new one is made in the workdir.

    A resumed run keeps the one it began with, whose tokenizer its weights belong to.

    Raises:
        MrlError: that one has other sizes than the config says.
    """
    new = config.model.new
    if new is None:
        return user_path(config.model.text_tower)
    folder = workdir / INITIAL
    if has_checkpoint(workdir) and (folder / TOWER_FILE).is_file():
        sizes = read_info(folder, expected=kinds_of(Qwen3Config)).config
        assert isinstance(sizes, Qwen3Config)
        if new.sizes(sizes.vocab_size) != sizes:
            raise MrlError(
                "the run began with a tower of other sizes than model.new has",
                where=folder,
                hint="set them back, or choose another --workdir",
            )
        return folder
    queries = prompted(pairs, config.data.batch.prompts)
    documents = [pair.document for pair in pairs]
    whole = sorted(_words(documents) - _words(queries)) if new.document_words else []
    files = new_tokenizer(
        [*queries, *documents], units=new.units, max_pieces=new.max_pieces, whole=whole
    )
    tower = initial_tower(new.sizes(tokenizer_size(files)), config.seed)
    save_text_tower(folder, tower, files)
    return folder


def _words(texts: Sequence[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text.lower())}
