"""What the configs of all kinds of training have in common."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import DTYPES
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import expand_paths
from mrl_jax.models.lora import LoraConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run; each kind of training adds its model, data and loss.

    Attributes:
        name: of the run; its workdir is runs/NAME by default.
        seed: of new weights, the order of the data, and augmentation.
        data: what is trained on; its `batch.batch_size` is that of all devices together.
        optim: the optimiser.
        train: length, devices, checkpoints.
    """

    name: str
    seed: int = 0
    data: Any
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: LoopConfig = dataclasses.field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise MrlError(f"seed is {self.seed}, expected a whole number from 0 on")
        if self.name in ("", "..") or Path(self.name).name != self.name:
            hint = "a path can be given as --workdir"
            raise MrlError(f"name is {self.name!r}, expected a folder's name", hint=hint)


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a model computes.

    Attributes:
        dtype: of the computation, "bfloat16" or "float32"; what is trained is kept in float32.
        remat: recompute layers in the backward pass: slower by a fifth, for the memory of long
            clips or large towers.
    """

    dtype: str = "bfloat16"
    remat: bool = False

    def __post_init__(self) -> None:
        check_choice("model.dtype", self.dtype, DTYPES)
        expand_paths(self, "model")


@checked
def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises an `MrlError` where a field's value is none of the choices."""
    choices = tuple(choices)
    if value not in choices:
        problem = f"{name} is {value!r}, expected {' or '.join(choices)}"
        raise MrlError(problem, hint=did_you_mean(value, choices, otherwise=""))


@checked
def refuse_fsdp(train: LoopConfig) -> None:
    """Raises an `MrlError` where weights are to be sharded: only those beside a head can be."""
    if train.fsdp != 1:
        raise MrlError(
            f"train.fsdp is {train.fsdp}, which shards frozen weights: those of the towers that a "
            "head is trained between, and not of this kind of training",
            hint="leave train.fsdp out",
        )


@checked
def refuse_text_lora(train: LoopConfig) -> None:
    """Raises an `MrlError` where factors for a text tower are asked of another kind of training."""
    for name, default in vars(LoraConfig()).items():
        value = getattr(train.text_lora, name)
        if value != default:
            raise MrlError(
                f"train.text_lora.{name} is {value}, and this kind of training trains no text "
                "tower",
                hint="leave it out; the text stage (mrl-jax train --config text_stage) trains one",
            )


@checked
def check_dims(dims: tuple[int, ...], width: int, where: object) -> None:
    """Raises an `MrlError` for a dim that the text tower does not have."""
    for dim in dims:
        if not 1 <= dim <= width:
            halves = ",".join(str(width >> shift) for shift in range(4) if width >> shift)
            raise MrlError(
                f"loss.dims has {dim}, expected 1 to {width}, the width of the text tower",
                where=where,
                hint=f"for instance loss.dims=[{halves}]",
            )
