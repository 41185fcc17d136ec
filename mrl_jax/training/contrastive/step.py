"""One training step: a pure function of (state, frozen weights, batch)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float32

from mrl_jax.core.batch import Batch
from mrl_jax.losses.config import LossConfig
from mrl_jax.losses.matryoshka import NestedLoss, over_separate
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.training.grad_cache import cached_value_and_grad
from mrl_jax.training.state import Metrics, Rebuild, Step, TrainState, apply_gradients


def embed_pairs(model: TwoTowers, batch: Batch) -> tuple[Array, Array]:
    """Vectors of a batch's queries [B, W] and documents [B, E]."""
    prompt = batch.prompt, batch.prompt_mask
    if batch.speech is None:
        queries = model.embed_speech(batch.samples, batch.lengths, *prompt)
    else:
        queries = model.embed_cached(batch.speech, *prompt)
    if batch.document_vectors is not None:
        return queries, jnp.asarray(batch.document_vectors)
    # No gradient reaches the documents of a frozen tower: its backward pass is not traced.
    documents = lax.stop_gradient(model.embed_text(batch.document, batch.document_mask))
    return queries, documents


def pair_loss(
    model: TwoTowers,
    queries: Array,
    documents: Array,
    batch: Batch,
    config: LossConfig,
    axis_name: str | None = None,
) -> NestedLoss:
    """The loss of embedded pairs, of the full batch over `axis_name` if given."""
    loss = config.bind(
        temperature=model.temperature(config.temperature),
        query_ids=jnp.asarray(batch.query_ids),
        document_ids=jnp.asarray(batch.document_ids),
        where=jnp.asarray(batch.rows),
        axis_name=axis_name,
    )
    weights = config.weights or None
    if model.separate_dims:
        return over_separate(loss, queries, documents, dims=config.dims, weights=weights)
    return loss(queries, documents, dims=config.dims, weights=weights)


def make_train_step(
    rebuild: Rebuild,
    optimizer: optax.GradientTransformation,
    config: LossConfig,
    *,
    accumulation_steps: int = 1,
    axis_name: str | None = None,
) -> Step:
    """The step as a pure function; `Devices.compile` compiles it.

    Args:
        rebuild: a module from (trained, frozen), see `param_tree.split`.
        optimizer: its state is in `TrainState`.
        config: the loss.
        accumulation_steps: equal parts of the rows, run one after the other; the gradient is
            that of all rows together (`grad_cache`).
        axis_name: mapped axis of devices; None where the batch is one global array.
    """

    def step(
        state: TrainState, frozen: Mapping[str, Any], batch: Batch
    ) -> tuple[TrainState, Metrics]:
        def embed(trained: Any, rows: Batch) -> tuple[Array, Array]:
            return embed_pairs(rebuild(trained, frozen), rows)

        def loss(
            trained: Any, embeddings: tuple[Array, Array], batch: Batch
        ) -> tuple[Float32[Array, ""], tuple[Float32[Array, " dims"], Float32[Array, ""]]]:
            model = rebuild(trained, frozen)
            nested = pair_loss(model, *embeddings, batch, config, axis_name)
            temperature = jnp.asarray(model.temperature(config.temperature), jnp.float32)
            return nested.total, (nested.per_dim, temperature)

        value_and_grad = cached_value_and_grad(embed, loss, parts=accumulation_steps)
        (total, (per_dim, temperature)), gradients = value_and_grad(state.trained, batch)
        if axis_name is not None:
            # The loss is the full batch's on every device: the mean, not the sum, of the
            # devices' gradients is the full batch's (see tests/training/test_devices.py).
            gradients = lax.pmean(gradients, axis_name)
        metrics = {"loss": total, "loss_per_dim": per_dim, "temperature": temperature}
        return apply_gradients(state, gradients, optimizer, metrics)

    return step
