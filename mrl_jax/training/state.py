"""What training changes: the state of a run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mrl_jax.nn.param_tree import flatten

Rebuild = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


Metrics = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, and all that a checkpoint holds.

    Attributes:
        step: [] int32, number of steps done. (As in `Batch`, a pytree's fields hold more
            than arrays, so they carry no shapes.)
        trained: nested dict of the trained leaves.
        optimizer: state of the optimiser.
    """

    step: Any
    trained: Any
    optimizer: Any


def init_state(trained: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; its arrays are copies, as a step consumes them."""
    trained = jax.tree.map(jnp.copy, trained)
    return TrainState(jnp.zeros((), jnp.int32), trained, optimizer.init(trained))


def trained_leaves(trained: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the trained leaves by dotted path."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(trained).items()}
