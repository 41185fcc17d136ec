"""The exact gradient of a large batch, with the activations of a small part of it.

A contrastive loss couples all rows, so that averaging the gradients of parts of a batch
gives that of another loss: each part's own. Here all parts are embedded first, without
keeping activations; the loss of the whole batch is differentiated at the embeddings; and
each part is run again to carry its part of that gradient to the weights. For one more forward
pass, the gradient is that of the whole batch (Gao et al., 2021, arXiv 2101.06983).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Embed = Callable[[Any, Any], Any]
"""(params, part of a batch) to embeddings: any pytree of arrays with a row for each of the part.

Called twice on each part, with equal results: a random key must be part of the batch.
"""
Loss = Callable[[Any, Any, Any], tuple[Array, Any]]
"""(params, embeddings of the whole batch, the batch) to the loss and any auxiliary output.

`params` is for what is trained inside the loss, such as a temperature.
"""


def cached_value_and_grad(
    embed: Embed, loss: Loss, *, parts: int
) -> Callable[[Any, Any], tuple[tuple[Array, Any], Any]]:
    """`jax.value_and_grad` of `loss(params, embed(params, batch), batch)`, part by part.

    Args:
        embed: embeds one part.
        loss: of all embeddings; under a mapped axis it may gather those of other devices,
            and the gradient is then one device's, to be averaged as without parts.
        parts: equal parts of the batch's rows; 1 is plain differentiation.

    Returns:
        (params, batch) to ((loss, more), gradient); that of several parts is in float32.
    """

    def whole(params: Any, batch: Any) -> tuple[Array, Any]:
        return loss(params, embed(params, batch), batch)

    if parts == 1:
        return jax.value_and_grad(whole, has_aux=True)

    def value_and_grad(params: Any, batch: Any) -> tuple[tuple[Array, Any], Any]:
        numbers = jnp.arange(parts)
        embeddings = merge_rows(
            lax.map(lambda part: embed(params, rows_of(batch, part, parts)), numbers)
        )
        (value, more), (direct, at_embeddings) = jax.value_and_grad(
            loss, argnums=(0, 1), has_aux=True
        )(params, embeddings, batch)

        def add(total: Any, part: Array) -> tuple[Any, None]:
            piece = rows_of(batch, part, parts)
            _, vjp = jax.vjp(lambda params: embed(params, piece), params)
            (gradient,) = vjp(rows_of(at_embeddings, part, parts))
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, gradient), None

        start = jax.tree.map(lambda x: x.astype(jnp.float32), direct)
        gradient, _ = lax.scan(add, start, numbers)
        return (value, more), gradient

    return value_and_grad


def rows_of(tree: Any, part: Array, parts: int) -> Any:
    """Every `parts`-th row of [B, ...], from row `part` on: [B / parts, ...].

    So each part has rows of all devices where the batch is one array over a mesh.
    """
    return jax.tree.map(
        lambda x: lax.dynamic_index_in_dim(
            jnp.reshape(x, (x.shape[0] // parts, parts, *x.shape[1:])), part, 1, keepdims=False
        ),
        tree,
    )


def merge_rows(tree: Any) -> Any:
    """[parts, B / parts, ...] as [B, ...], in the order of the batch."""
    return jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree
    )
