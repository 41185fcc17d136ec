"""One step of a text tower's training: a pure function of (state, frozen weights, pairs)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float32

from mrl_jax.data.batches.packing import PackedTextBatch
from mrl_jax.data.batches.text import TextBatch
from mrl_jax.data.batches.token_noise import VectorNoise
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.lora import LoraConfig, abstract_lora
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder, abstract_qwen3
from mrl_jax.nn.param_tree import fill, flatten, freeze
from mrl_jax.training.grad_cache import cached_value_and_grad
from mrl_jax.training.state import Metrics, Rebuild, Step, TrainState, apply_gradients
from mrl_jax.training.text_tower.noise import noisy_vectors

AnyTextBatch = TextBatch | PackedTextBatch


def make_text_step(
    rebuild: Rebuild,
    optimizer: optax.GradientTransformation,
    config: LossConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    accumulation_steps: int = 1,
    axis_name: str | None = None,
) -> Step:
    """The step as a pure function; `Devices.compile` compiles it.

    Args:
        rebuild: the tower from its trained and its frozen weights.
        optimizer, accumulation_steps, axis_name: as in `contrastive.step.make_train_step`.
        config: the loss, a contrastive one at a fixed temperature.
        dtype: of the trained weights that are computed with; the state keeps float32.
    """
    loss = pair_loss(config, axis_name)

    def step(
        state: TrainState, frozen: Mapping[str, Any], batch: AnyTextBatch
    ) -> tuple[TrainState, Metrics]:
        embed = embedder(rebuild, frozen)
        value_and_grad = cached_value_and_grad(embed, loss, parts=accumulation_steps)
        (total, per_dim), gradients = value_and_grad(working_copy(state.trained, dtype), batch)
        gradients = jax.tree.map(lambda x: x.astype(jnp.float32), gradients)
        if axis_name is not None:
            gradients = lax.pmean(gradients, axis_name)
        metrics = {"loss": total, "loss_per_dim": per_dim}
        return apply_gradients(state, gradients, optimizer, metrics)

    return step


def tower_rebuilder(
    config: Qwen3Config, dtype: DTypeLike, *, remat: bool, lora: LoraConfig | None = None
) -> Rebuild:
    """The tower from its trained and frozen weights, computing in `dtype`.

    With `remat` it recomputes its layers; with `lora`, of a rank above 0, it has factors.
    """
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "remat": remat}
    if lora is not None and lora.rank:
        module = freeze(abstract_lora(config, lora, **options))
    else:
        module = abstract_qwen3(config, **options)
    return lambda trained, frozen: fill(module, {**flatten(trained), **frozen})


def embedder(
    rebuild: Rebuild, frozen: Mapping[str, Any] | None = None
) -> Callable[[Any, AnyTextBatch], tuple[Array, Array]]:
    """Queries [B, E] and documents [B, E] of a batch, as a function of the trained weights."""

    def embed(weights: Any, batch: AnyTextBatch) -> tuple[Array, Array]:
        tower = rebuild(weights, frozen or {})
        if isinstance(batch, PackedTextBatch):
            return _embed_packed(tower, batch)
        queries = _embed(tower, batch.query, batch.query_mask, batch.noise)
        return queries, _embed(tower, batch.document, batch.document_mask)

    return embed


def text_embedder(rebuild: Rebuild, dtype: DTypeLike) -> Callable[[Any, Any, Any, Any], Array]:
    """(trained, frozen, ids [B, L], mask [B, L]) to [B, E], as the step embeds."""

    def embed(trained: Any, frozen: Any, ids: Any, mask: Any) -> Array:
        return _embed(rebuild(working_copy(trained, dtype), frozen), ids, mask)

    return embed


def pair_loss(
    config: LossConfig, axis_name: str | None = None
) -> Callable[[Any, tuple[Array, Array], AnyTextBatch], tuple[Float32[Array, ""], Array]]:
    """The loss of embedded pairs, and that of each dim."""

    def loss(
        weights: Any, embeddings: tuple[Array, Array], batch: AnyTextBatch
    ) -> tuple[Float32[Array, ""], Array]:
        del weights
        bound = config.bind(
            temperature=config.temperature,
            query_ids=jnp.asarray(batch.query_ids),
            document_ids=jnp.asarray(batch.document_ids),
            axis_name=axis_name,
        )
        nested = bound(*embeddings, dims=config.dims, weights=config.weights or None)
        return nested.total, nested.per_dim

    return loss


def working_copy(weights: Mapping[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    """The trained weights in `dtype`; except token embeddings, which are only looked up in."""
    return {
        name: part if name == "embed_tokens" else jax.tree.map(lambda x: x.astype(dtype), part)
        for name, part in weights.items()
    }


def _embed(tower: Qwen3Encoder, ids: Any, mask: Any, noise: VectorNoise | None = None) -> Array:
    # Looked up here, where the table may be float32: its gradient adds up many tokens.
    table = tower.embed_tokens.embedding[...]
    vectors = jnp.take(table, ids, axis=0)
    if noise is not None:
        vectors = noisy_vectors(vectors.astype(jnp.float32), table, noise)
    return tower.embed(vectors, mask)


def _embed_packed(tower: Qwen3Encoder, batch: PackedTextBatch) -> tuple[Array, Array]:
    vectors = jnp.take(tower.embed_tokens.embedding[...], batch.tokens, axis=0)
    embedded = tower.embed_packed(vectors, batch.texts, batch.firsts, batch.lengths)
    queries, documents = jnp.split(embedded, 2, axis=1)
    width = embedded.shape[-1]
    return queries.reshape(-1, width), documents.reshape(-1, width)
