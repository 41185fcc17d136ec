"""What the converters need of a family of published checkpoints."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.towers import TOWERS
from mrl_jax.nn import param_tree

from . import SPEECH
from .checkpoints import Checkpoint
from .rules import RuleTable, Shape


@dataclasses.dataclass(frozen=True)
class Description:
    """What a checkpoint is, once its config was read.

    Attributes:
        kind: one of `mrl_jax.models.towers.TOWERS`.
        config: our config.
        leaves: shapes of the module's leaves by path, group first.
        vocabulary: of a recogniser's outputs.
        notes: what was assumed, or is done in another way than by the original library.
    """

    kind: str
    config: Any
    leaves: Mapping[str, Shape]
    vocabulary: CtcVocabulary | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How the checkpoints of one model type are read, written and run.

    Attributes:
        model_type: what their config.json names.
        table: their tensor names.
        parse_config: (config.json, where=) to our config.
        describe: a checkpoint to what it is.
        torch_classes: name of transformers' class for each kind of tower.
        architectures: other classes whose tensors the table reads as the same encoder.
        harmless: fields of config.json that change nothing of the encoder's output.
        tied: names of an output layer and of the embeddings that it must equal where
            config.json ties them; None where there is no such layer.
    """

    model_type: str
    table: RuleTable
    parse_config: Callable[..., Any]
    describe: Callable[[Checkpoint], Description]
    torch_classes: Mapping[str, str]
    architectures: tuple[str, ...] = ()
    harmless: frozenset[str] = frozenset()
    tied: tuple[str, str] | None = None

    @property
    def kind(self) -> str:
        """The kind of its encoders, in `mrl_jax.models.towers.TOWERS`."""
        return self.model_type.replace("-", "_")


def family(name: str) -> Family:
    """A family of checkpoints by its model type, from the file of that name."""
    return importlib.import_module(f".{name.replace('-', '_')}", __package__).FAMILY


def find_family(name: str, config: Mapping[str, Any], where: object) -> Family:
    """The family that a command names; for "speech", the one that config.json names.

    Raises:
        MrlError: config.json names no family of speech checkpoints.
    """
    if name != "speech":
        return family(name)
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in SPEECH:
        return family(model_type)
    known = "; ".join(f"{kind} ({models})" for kind, models in SPEECH.items())
    hint = "convert a Qwen3 text tower with `mrl-jax convert qwen3`"
    if model_type != "qwen3":
        hint = "convert a checkpoint of one of these kinds"
    problem = f"model_type is {model_type!r}, and the speech towers supported here are {known}"
    raise MrlError(problem, where=where, hint=hint)


def family_of(kind: str) -> Family:
    """The family of a kind of tower."""
    return family(TOWERS[kind].family)


def encoder_leaves(kind: str, config: Any) -> dict[str, Shape]:
    """Shapes of an encoder's leaves by path, as a description has them.

    Raises:
        MrlError: sizes of which no module can be built.
    """
    try:
        leaves = param_tree.flat_weights(TOWERS[kind].abstract(config))
    except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
        problem = f"no module has the sizes of config.json ({first_line(error)})"
        hint = "check that config.json belongs to these weights"
        raise MrlError(problem, hint=hint) from error
    return {f"encoder.{path}": leaf.shape for path, leaf in leaves.items()}
