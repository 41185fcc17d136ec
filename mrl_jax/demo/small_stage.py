"""What the demo's CTC and text training share: the loop, the update, the running mean.

Both train all of a small tower from random weights, on one device.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array
from tqdm import tqdm

from mrl_jax.core.errors import MrlError
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import TrainState, apply_gradients, init_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How a tower is trained from random weights.

    Attributes:
        steps: optimiser steps.
        learning_rate: the highest; cosine decay to zero follows a linear warm-up.
        warmup_fraction: fraction of the steps in which the rate rises.
        clip_norm: largest global norm of a gradient.
        average_decay: decay of the exponential moving average of the weights that is returned;
            0 returns the last ones.
        seed: of the initial weights and whatever else is random.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup_fraction: float = 0.1
    clip_norm: float = 1.0
    average_decay: float = 0.0
    seed: int = 0


class StageState(NamedTuple):
    """The state of the training, and the running mean of the weights or None."""

    training: TrainState
    average: Any


def fit(
    name: str,
    params: Any,
    stage: StageConfig,
    step: Callable[[StageState, Any], tuple[StageState, Array]],
    batch_of: Callable[[int], Any],
    *,
    progress: bool,
) -> Any:
    """The trained weights: the running mean, if there is one.

    A batch is made while the device computes the step before, and a loss is read one step late.

    Args:
        name: of the training, in the progress bar and in errors.
        params: the initial weights.
        stage: steps and rates.
        step: (state, batch) to the next state, by `advance`, and the loss; jitted.
        batch_of: the batch of step i.
        progress: whether to show a progress bar.

    Raises:
        MrlError: a loss that is not finite.
    """
    average = params if stage.average_decay else None
    state = StageState(init_state(params, _optimizer(stage)), average)
    batch, loss = batch_of(0), None
    bar = tqdm(range(stage.steps), desc=name, unit="step", disable=not progress)
    for number in bar:
        previous = loss
        state, loss = step(state, batch)
        if number + 1 < stage.steps:
            batch = batch_of(number + 1)
        if previous is not None:
            bar.set_postfix(loss=_finite(name, number - 1, previous), refresh=False)
    _finite(name, stage.steps - 1, loss)
    return state.training.trained if state.average is None else state.average


def advance(
    state: StageState, loss_of: Callable[[Any], Array], stage: StageConfig
) -> tuple[StageState, Array]:
    """The state after one update, and the loss before it; to be called inside a jitted step."""
    loss, gradients = jax.value_and_grad(loss_of)(state.training.trained)
    training, _ = apply_gradients(state.training, gradients, _optimizer(stage), {"loss": loss})
    average = state.average
    if average is not None:
        average = optax.incremental_update(training.trained, average, 1 - stage.average_decay)
    return StageState(training, average), loss


def _finite(name: str, number: int, loss: Any) -> str:
    value = float(np.asarray(loss))
    if not np.isfinite(value):
        raise MrlError(
            f"the loss of step {number} is {value}, expected a finite number",
            where=f"the demo's {name} training",
            hint="lower the learning rate, or look for a broken example",
        )
    return f"{value:.3f}"


def _optimizer(stage: StageConfig) -> optax.GradientTransformation:
    """That of `training.optim`, with a warm-up from zero."""
    warmup, peak = int(stage.steps * stage.warmup_fraction), stage.learning_rate
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else peak, peak, warmup, max(stage.steps, 2)
    )
    config = OptimConfig(learning_rate=peak, weight_decay=0.01, b2=0.98, clip_norm=stage.clip_norm)
    return make_optimizer(config, stage.steps, rate=schedule)
