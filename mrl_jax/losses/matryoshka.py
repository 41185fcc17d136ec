"""Nested losses between queries and documents: a mean over prefixes of the vectors.

Sources: InfoNCE, van den Oord et al., 2018 (arXiv 1807.03748); Matryoshka representation learning,
Kusupati et al., 2022 (arXiv 2205.13147); both as in arXiv 2602.19991, section 3. All is float32.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.arguments import PositiveFloat, checked
from mrl_jax.core.errors import ArgumentError
from mrl_jax.losses.nested_softmax import Candidates, nested_cross_entropy
from mrl_jax.nn.pooling import truncate

Dims = Sequence[int]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class NestedLoss:
    """A loss over prefixes.

    Attributes:
        total: the weighted mean over dims, averaged over rows (and devices).
        per_dim: [dims], the loss of each prefix, averaged likewise, in the order of `dims`.
        per_row: [dims, B], unreduced; 0 at rows that do not count.
    """

    total: Float32[Array, ""]
    per_dim: Float32[Array, " dims"]
    per_row: Float32[Array, "dims B"]


@checked
def matryoshka_infonce(
    queries: Float[Array, "B E"],
    documents: Float[Array, "B E"],
    *,
    dims: Dims,
    weights: Sequence[float] | None = None,
    temperature: PositiveFloat | Float32[Array, ""] = 0.05,
    symmetric: bool = False,
    hard_negatives: Float[Array, "B M E"] | None = None,
    query_ids: Int[Array, " B"] | None = None,
    document_ids: Int[Array, " B"] | None = None,
    hard_negative_ids: Int[Array, "B M"] | None = None,
    where: Bool[Array, " B"] | None = None,
    axis_name: str | None = None,
    blockwise: bool | None = None,
) -> NestedLoss:
    """Cross-entropy of each query's own document among all documents, on every prefix.

    Similarities are cosines of re-normalised prefixes over `temperature`. All dims together
    take one full-width product, forward and backward (`nested_softmax`).

    Args:
        queries: one row a query; their length does not matter.
        documents: the document of each query; all others in the batch are negatives.
        dims: widths of the prefixes, in any order.
        weights: weight of each dim; equal by default. Only their ratios matter.
        temperature: what cosines are divided by; a traced scalar may be trained.
        symmetric: average with the other direction, each document's own query among all.
        hard_negatives: M more documents a query, candidates for every query of the batch.
        query_ids: rows with equal ids have the same query: never each other's negatives.
        document_ids: rows with equal ids have the same document: never negatives.
        hard_negative_ids: a hard negative with the id of a query's own document is no
            candidate for that query.
        where: True at rows that count; others are neither queries nor candidates.
        axis_name: mapped axis of devices; candidates then come from all of them, and `total` and
            `per_dim` are the full batch's. Its gradient is the mean over the axis (`lax.pmean`).
        blockwise: keep no array of rows by candidates, and recompute products in the
            backward pass; by default where keeping them takes more than 1 GiB.

    Raises:
        ArgumentError: a single pair, which has no negative; dims or weights that do not fit the
            vectors; ids of hard negatives with nothing to compare them to.
    """
    normalized = normalized_weights(weights, dims, queries.shape[-1])
    widths = sorted(dims)
    blocks = list(zip([0, *widths[:-1]], widths, strict=True))
    order = [widths.index(dim) for dim in dims]
    if hard_negative_ids is not None and (hard_negatives is None or document_ids is None):
        raise ArgumentError("hard_negative_ids go with hard_negatives and document_ids")
    rows = queries.shape[0]
    if rows < 2 and hard_negatives is None and axis_name is None:
        raise ArgumentError(f"there are {rows} pairs and no negatives, expected 2 pairs or more")
    selective = where is not None or query_ids is not None or document_ids is not None
    where = jnp.ones(rows, jnp.bool_) if where is None else where
    # Without ids every row is its own: the global row number.
    first = 0 if axis_name is None else lax.axis_index(axis_name) * rows
    own = (first + jnp.arange(rows)).astype(jnp.int32)
    query_ids = own if query_ids is None else query_ids
    document_ids = own if document_ids is None else document_ids

    def gather(x: Array) -> Array:
        return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)

    def direction(anchors: Array, candidates: Array, allowed: Candidates | None) -> Array:
        return nested_cross_entropy(
            anchors, candidates, own, blocks, temperature, allowed, blockwise=blockwise
        )

    # Both relations are symmetric, so the same candidates are allowed in both directions.
    candidates, all_rows = gather(documents), gather(jnp.ones(rows, jnp.bool_))
    of_queries = Candidates(
        row_query=query_ids,
        row_document=document_ids,
        row_own=own,
        counts=gather(where),
        query=gather(query_ids),
        document=gather(document_ids),
        own=gather(own),
        has_query=all_rows,
        has_document=all_rows,
    )
    allowed = of_documents = of_queries if selective else None
    if hard_negatives is not None:
        candidates, of_documents = _with_hard_negatives(
            candidates, of_queries, gather(hard_negatives), hard_negative_ids, gather
        )
    per_row = direction(queries, candidates, of_documents)
    if symmetric:
        per_row = (per_row + direction(documents, gather(queries), allowed)) / 2
    return reduce_rows(per_row[np.asarray(order)], where, normalized, axis_name)


@checked
def l1_cosine(
    predictions: Float[Array, "B E"],
    targets: Float[Array, "B E"],
    *,
    dims: Dims,
    weights: Sequence[float] | None = None,
    normalize: bool = True,
    where: Bool[Array, " B"] | None = None,
    axis_name: str | None = None,
) -> NestedLoss:
    """Regression onto given embeddings: mean |a − b| − log σ(cos(a, b)), on every prefix.

    Args:
        predictions: those that are trained.
        targets: the given embeddings, for instance those of the text tower.
        normalize: scale each prefix to unit length before |a − b|; the cosine does not
            depend on it.
        dims, weights, where, axis_name: as in `matryoshka_infonce`.

    Raises:
        ArgumentError: dims or weights that do not fit the vectors.
    """
    normalized = normalized_weights(weights, dims, predictions.shape[-1])
    where = jnp.ones(predictions.shape[0], jnp.bool_) if where is None else where
    per_dim = []
    for dim in dims:
        a, b = truncate(predictions, dim), truncate(targets, dim)
        cosine = jnp.sum(a * b, axis=-1)
        if not normalize:
            a, b = (x[:, :dim].astype(jnp.float32) for x in (predictions, targets))
        per_dim.append(jnp.mean(jnp.abs(a - b), axis=-1) - jax.nn.log_sigmoid(cosine))
    return reduce_rows(jnp.stack(per_dim), where, normalized, axis_name)


@checked
def over_separate(
    loss: Callable[..., NestedLoss],
    queries: Float[Array, "B W"],
    documents: Float[Array, "B E"],
    *,
    dims: Dims,
    weights: Sequence[float] | None = None,
) -> NestedLoss:
    """A loss where each dim has a query vector of its own, against the document's prefix.

    Args:
        loss: `matryoshka_infonce` or `l1_cosine`, its other arguments bound.
        queries: the vectors of all dims side by side, in the order of `dims`.
        documents: nested vectors.
        dims, weights: as in `matryoshka_infonce`.

    Raises:
        ArgumentError: dims or weights that do not fit the vectors.
    """
    normalized = normalized_weights(weights, dims, documents.shape[-1])
    if sum(dims) != queries.shape[-1]:
        raise ArgumentError(
            f"the queries are {queries.shape[-1]} wide, expected {sum(dims)}: dims {tuple(dims)} "
            "side by side"
        )
    ends = np.cumsum(dims).tolist()
    parts = [
        loss(queries[:, end - dim : end], documents[:, :dim], dims=(dim,))
        for dim, end in zip(dims, ends, strict=True)
    ]
    per_dim = jnp.concatenate([part.per_dim for part in parts])
    per_row = jnp.concatenate([part.per_row for part in parts])
    total = jnp.sum(per_dim * jnp.asarray(normalized, jnp.float32))
    return NestedLoss(total=total, per_dim=per_dim, per_row=per_row)


def _with_hard_negatives(
    documents: Array,
    allowed: Candidates,
    hard_negatives: Float[Array, "G M E"],
    ids: Int[Array, "B M"] | None,
    gather: Callable[[Array], Array],
) -> tuple[Array, Candidates]:
    """The candidates with the hard negatives, which are no row's positive, behind them."""
    _, each, width = hard_negatives.shape
    extra = hard_negatives.reshape(-1, width)
    none, zeros = jnp.zeros(len(extra), jnp.bool_), jnp.zeros(len(extra), jnp.int32)
    fields = {
        "counts": jnp.repeat(allowed.counts, each),
        "query": zeros,
        "document": zeros if ids is None else gather(ids.reshape(-1)),
        "own": zeros - 1,
        "has_query": none,
        "has_document": none if ids is None else ~none,
    }
    joined = {
        name: jnp.concatenate((getattr(allowed, name), more.astype(getattr(allowed, name).dtype)))
        for name, more in fields.items()
    }
    return jnp.concatenate((documents, extra)), allowed._replace(**joined)


def reduce_rows(
    per_row: Float32[Array, "dims B"],
    where: Bool[Array, " B"],
    weights: Sequence[float],
    axis_name: str | None = None,
) -> NestedLoss:
    """The loss of each row as a `NestedLoss`: means over the rows that count.

    Args:
        per_row: at every dim.
        where: True at rows that count.
        weights: of the dims; their sum is 1 (`normalized_weights`).
        axis_name: mapped axis of devices, whose rows are averaged too.
    """
    per_row = jnp.where(where[None, :], per_row, jnp.zeros((), jnp.float32))
    total, number = jnp.sum(per_row, axis=1), jnp.sum(where.astype(jnp.float32))
    if axis_name is not None:
        total, number = lax.psum(total, axis_name), lax.psum(number, axis_name)
    per_dim = total / jnp.maximum(number, 1.0)
    total = jnp.sum(per_dim * jnp.asarray(weights, jnp.float32))
    return NestedLoss(total=total, per_dim=per_dim, per_row=per_row)


def normalized_weights(
    weights: Sequence[float] | None, dims: Dims, width: int
) -> tuple[float, ...]:
    """The weights of the dims, equal by default, divided by their sum.

    Raises:
        ArgumentError: dims or weights that do not fit vectors of this width.
    """
    if not dims:
        raise ArgumentError("dims is empty, expected one width or more")
    if len(set(dims)) != len(dims):
        raise ArgumentError(f"dims is {tuple(dims)}, expected different widths")
    for dim in dims:
        if not 1 <= dim <= width:
            raise ArgumentError(f"dims has {dim}, expected 1 to {width}, the embeddings' width")
    weights = [1.0] * len(dims) if weights is None else weights
    if len(weights) != len(dims):
        raise ArgumentError(f"there are {len(weights)} weights, expected {len(dims)}: one a dim")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ArgumentError(f"weights is {tuple(weights)}, expected none negative and one positive")
    return tuple(weight / sum(weights) for weight in weights)
