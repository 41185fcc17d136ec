"""The tower that a run of the text stage begins with, and which of its weights are trained."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from mrl_jax.checkpoints.towers import TowerInfo, load_qwen3, read_info
from mrl_jax.core.array_types import DTYPES
from mrl_jax.core.distributed import is_primary, primary_first
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.models.lora import LoraConfig, initial_factors
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.towers import kinds_of
from mrl_jax.nn import param_tree
from mrl_jax.training.config import check_dims
from mrl_jax.training.devices import Devices
from mrl_jax.training.state import Rebuild
from mrl_jax.training.text_tower.config import INITIAL, TextStageExperiment, prepare_tower
from mrl_jax.training.text_tower.step import tower_rebuilder

UNUSED = "; all is trained: alpha and targets of train.text_lora are not read at a rank of 0"


@dataclasses.dataclass(frozen=True)
class InitialTower:
    """The tower that a run begins with: its folder, description and tokenizer.

    Attributes:
        verify: compare its files with their digests when the weights are loaded.
    """

    folder: Path
    info: TowerInfo
    tokenizer: TextTokenizer
    verify: bool

    @property
    def config(self) -> Qwen3Config:
        assert isinstance(self.info.config, Qwen3Config)
        return self.info.config

    def load(self, **options: Any) -> param_tree.Split:
        """The module taken apart: its weights are trained, or frozen, as the options say."""
        return param_tree.split(load_qwen3(self.folder, verify=self.verify, **options))

    def check_ids(self, largest: int, where: Path) -> None:
        """Raises an `MrlError` for a token id that the tower has no embedding for."""
        if largest >= self.config.vocab_size:
            raise MrlError(
                f"the tokenizer gives the id {largest}, and the tower has "
                f"{self.config.vocab_size} embeddings",
                where=where,
                hint="put the tokenizer.json of its own checkpoint beside it",
            )


def initial_tower(
    config: TextStageExperiment, pairs: Sequence[TextPair], workdir: Path
) -> InitialTower:
    """The tower of the config; a new one is made by the first host, and read by the others."""
    make_folder(workdir)
    with primary_first("tower"):
        made_here = config.model.new is None or is_primary()
        folder = prepare_tower(config, pairs, workdir) if made_here else workdir / INITIAL
    info = read_info(folder, expected=kinds_of(Qwen3Config))
    assert isinstance(info.config, Qwen3Config)
    check_dims(config.loss.dims, info.config.embed_width, folder)
    tokenizer = TextTokenizer(folder, max_tokens=config.data.batch.max_tokens)
    return InitialTower(folder, info, tokenizer, config.train.verify)


@dataclasses.dataclass(frozen=True)
class TrainedParts:
    """What is trained of a tower, and what is not.

    Attributes:
        weights: makes the initial trained weights in float32, a nested dict.
        frozen: all others by dotted path, on the devices; none where all are trained.
        rebuild: the tower from both.
        parameters: scalars of the whole; None where all are trained.
        details: for the log.
        identity: what a resumed run must agree on.
    """

    weights: Callable[[], dict[str, Any]]
    frozen: Mapping[str, Any]
    rebuild: Rebuild
    parameters: int | None
    details: str
    identity: Mapping[str, Any]


def trained_parts(
    config: TextStageExperiment, tower: InitialTower, devices: Devices
) -> TrainedParts:
    """All of the tower in float32; or factors in float32 beside a frozen tower.

    Raises:
        MrlError: factors of a rank that the tower has no room for.
    """
    model, lora, dtype = config.model, config.train.text_lora, DTYPES[config.model.dtype]
    try:
        rebuild = tower_rebuilder(tower.config, dtype, remat=model.remat, lora=lora)
        factors = initial_factors(tower.config, lora, config.seed) if lora.rank else {}
    except MrlError as error:
        raise MrlError(f"train.text_lora.{error.problem}", where=tower.folder) from error
    if not lora.rank:
        return TrainedParts(
            weights=lambda: tower.load(dtype=jnp.float32, trainable=True).trained,
            frozen={},
            rebuild=rebuild,
            parameters=None,
            details="" if lora == LoraConfig() else UNUSED,
            identity={},
        )
    frozen = tower.load(dtype=dtype, int8=model.frozen_dtype == "int8").frozen
    held = model.frozen_dtype or model.dtype
    return TrainedParts(
        weights=lambda: param_tree.nest(factors),
        frozen=devices.place_frozen(frozen),
        rebuild=rebuild,
        parameters=param_tree.count(frozen) + param_tree.count(factors),
        details=f"; LoRA of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)} "
        f"of every layer, the tower in {held}",
        identity={"alpha": lora.alpha, "frozen dtype": held},
    )
