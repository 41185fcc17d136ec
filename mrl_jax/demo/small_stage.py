"""What the CTC stage and the text stage share: first weights, the update, the finite check.

Both train a small tower whole, from nothing, on one device.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array

from mrl_jax.core.errors import MrlError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How a tower is trained from random weights.

    Attributes:
        steps: optimiser steps.
        learning_rate: the highest; cosine decay to zero follows a linear warm-up.
        warmup_fraction: share of the steps in which the rate rises.
        weight_decay: of AdamW, on kernels (not on biases, norms and embeddings).
        clip_norm: largest global norm of a gradient.
        b2: decay of the second moment.
        average_decay: weights returned are a running mean of those along the way, which
            forgets by this factor a step; 0 returns the last ones.
        seed: of the initial weights and whatever else is drawn.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    b2: float = 0.98
    average_decay: float = 0.0
    seed: int = 0


class StageState(NamedTuple):
    """Weights, the optimiser's moments, and the running mean of the weights or None."""

    params: Any
    moments: Any
    average: Any


def begin(params: Any, stage: StageConfig) -> StageState:
    """The state before the first step."""
    average = params if stage.average_decay else None
    return StageState(params, _optimizer(stage).init(params), average)


def advance(state: StageState, gradients: Any, stage: StageConfig) -> StageState:
    """The state after one update; to be called inside a jitted step."""
    # optax multiplies floats by integer counts, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = _optimizer(stage).update(gradients, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        average = optax.incremental_update(params, average, 1 - stage.average_decay)
    return StageState(params, moments, average)


def result(state: StageState) -> Any:
    """The weights that the stage is after."""
    return state.params if state.average is None else state.average


def finite(number: int, loss: Array, name: str) -> float:
    """The loss of step `number` as a float.

    Raises:
        MrlError: it is not finite.
    """
    value = float(np.asarray(loss))
    if not np.isfinite(value):
        raise MrlError(
            f"the loss of step {number} is {value}, expected a finite number",
            where=name,
            hint="lower the learning rate, or look for a broken example",
        )
    return value


def _optimizer(stage: StageConfig) -> optax.GradientTransformation:
    warmup = int(stage.steps * stage.warmup_fraction)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else stage.learning_rate, stage.learning_rate, warmup, max(stage.steps, 2)
    )
    return optax.chain(
        optax.clip_by_global_norm(stage.clip_norm),
        optax.adamw(schedule, b2=stage.b2, weight_decay=stage.weight_decay, mask=_is_kernel),
    )


def _is_kernel(params: Any) -> Any:
    """True at the leaves that weight decay is for; stacked biases have two axes as well."""
    return jax.tree.map_with_path(
        lambda path, _: any(name in jax.tree_util.keystr(path) for name in ("kernel", "direction")),
        params,
    )
