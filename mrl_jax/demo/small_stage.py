"""What the demo's CTC and text training share: the update, the running mean, the finite check.

Both train all of a small tower from random weights, on one device.
"""

import dataclasses
from typing import Any, NamedTuple

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
        weight_decay: of AdamW, on kernels (not on biases, norms and embeddings).
        clip_norm: largest global norm of a gradient.
        b2: decay of the second moment.
        average_decay: decay of the exponential moving average of the weights that is returned;
            0 returns the last ones.
        seed: of the initial weights and whatever else is random.
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
    """The state of the training, and the running mean of the weights or None."""

    training: TrainState
    average: Any

    @property
    def params(self) -> Any:
        """The weights that the next step trains."""
        return self.training.trained

    @property
    def result(self) -> Any:
        """The weights that are returned: the running mean, if there is one."""
        return self.params if self.average is None else self.average


def begin(params: Any, stage: StageConfig) -> StageState:
    """The state before the first step."""
    return StageState(
        init_state(params, _optimizer(stage)), params if stage.average_decay else None
    )


def advance(state: StageState, loss: Array, gradients: Any, stage: StageConfig) -> StageState:
    """The state after one update; to be called inside a jitted step."""
    training, _ = apply_gradients(state.training, gradients, _optimizer(stage), {"loss": loss})
    average = state.average
    if average is not None:
        average = optax.incremental_update(training.trained, average, 1 - stage.average_decay)
    return StageState(training, average)


class LossWatch:
    """A progress bar that shows the loss of the step before, so that the device never waits.

    Args:
        label: of the bar.
        name: what an error calls the training.
        stage: its steps.
        progress: whether the bar is shown.
    """

    def __init__(self, label: str, name: str, stage: StageConfig, *, progress: bool):
        self.bar = tqdm(range(stage.steps), desc=label, unit="step", disable=not progress)
        self._name = name
        self._last: tuple[int, Array] | None = None

    def add(self, number: int, loss: Array) -> None:
        """The loss of step `number`, which may still be running; checks the one before.

        Raises:
            MrlError: that is not finite.
        """
        self.end()
        self._last = number, loss

    def end(self) -> None:
        """Check the loss that was added last."""
        if self._last is None:
            return
        number, loss = self._last
        value = float(np.asarray(loss))
        if not np.isfinite(value):
            raise MrlError(
                f"the loss of step {number} is {value}, expected a finite number",
                where=self._name,
                hint="lower the learning rate, or look for a broken example",
            )
        self.bar.set_postfix(loss=f"{value:.3f}", refresh=False)


def _optimizer(stage: StageConfig) -> optax.GradientTransformation:
    """That of `training.optim`, with a warm-up from zero."""
    warmup = int(stage.steps * stage.warmup_fraction)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else stage.learning_rate, stage.learning_rate, warmup, max(stage.steps, 2)
    )
    config = OptimConfig(
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        b2=stage.b2,
        clip_norm=stage.clip_norm,
    )
    return make_optimizer(config, stage.steps, rate=schedule)
