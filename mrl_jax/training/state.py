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
Log = Callable[[str], None]
"""Called with a line of text for the user."""
Metrics = dict[str, Array]
"""What a step reports: `loss`, `loss_per_dim` [dims], norms and the like."""
Step = Callable[["TrainState", Mapping[str, Any], Any], tuple["TrainState", Metrics]]
"""(state, frozen weights, batch) to the next state and the step's metrics; pure."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, and all that a checkpoint holds.

    Attributes:
        step: [] int32, number of steps done. (As in `Batch`, fields of a pytree carry no shapes.)
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


def apply_gradients(
    state: TrainState,
    gradients: Any,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Array],
) -> tuple[TrainState, Metrics]:
    """The state after one update; the norms of gradient, update and weights join the metrics.

    `gradients` are those of the full batch, as a tree like `state.trained`.
    """
    updates, new_optimizer = optimizer.update(gradients, state.optimizer, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    norms = {
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        "weight_norm": optax.tree.norm(trained),
    }
    return TrainState(state.step + 1, trained, new_optimizer), {**metrics, **norms}


def trained_leaves(trained: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the trained leaves by dotted path."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(trained).items()}
