"""One step of a recogniser's training: a pure function of (state, frozen weights, batch)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float32

from mrl_jax.data.batches.ctc import CtcBatch
from mrl_jax.losses.ctc import mean_ctc_loss
from mrl_jax.training.state import Metrics, Rebuild, Step, TrainState, apply_gradients


def make_ctc_step(
    rebuild: Rebuild,
    optimizer: optax.GradientTransformation,
    *,
    blank: int,
    accumulation_steps: int = 1,
    axis_name: str | None = None,
) -> Step:
    """The step as a pure function; `Devices.compile` compiles it.

    The loss is the mean over clips of the negative log likelihood of a token. Clips do not
    depend on one another, so the gradients of parts and devices are averaged.

    Args:
        rebuild: a `HubertCtc` from (trained, frozen), see `param_tree.split`.
        optimizer, accumulation_steps, axis_name: as in `contrastive.step.make_train_step`.
        blank: id of the blank.
    """

    def loss_of(trained: Any, frozen: Mapping[str, Any], batch: CtcBatch) -> Float32[Array, ""]:
        output = rebuild(trained, frozen)(batch.samples, batch.lengths)
        return mean_ctc_loss(output, batch.labels, batch.counts, blank=blank)

    def step(
        state: TrainState, frozen: Mapping[str, Any], batch: CtcBatch
    ) -> tuple[TrainState, Metrics]:
        def part(rows: CtcBatch) -> Any:
            return jax.value_and_grad(loss_of)(state.trained, frozen, rows)

        if accumulation_steps == 1:
            loss, gradients = part(batch)
        else:
            parts = jax.tree.map(
                lambda x: jnp.reshape(x, (-1, accumulation_steps, *x.shape[1:])).swapaxes(0, 1),
                batch,
            )
            loss, gradients = jax.tree.map(lambda x: jnp.mean(x, axis=0), lax.map(part, parts))
        if axis_name is not None:
            # Each device has the mean over its own rows, as many as any other's.
            loss, gradients = lax.pmean((loss, gradients), axis_name)
        metrics = {"loss": loss, "loss_per_dim": jnp.zeros((0,), jnp.float32)}
        return apply_gradients(state, gradients, optimizer, metrics)

    return step
