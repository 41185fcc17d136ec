"""The demo's own training of a small text tower, on queries that look like a fusion head's tokens.

A query's tokens are repeated, with gaps and noise. Loss: nested InfoNCE in both directions,
over batches of pairs. Published towers are trained by `training.text_tower` instead, without
any of this, as in the paper (arXiv 2602.19991, section 3).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32

from mrl_jax.data.batches.text import TextBatch, pair_identities
from mrl_jax.data.batches.text_plan import PairPlan
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import pad_tokens
from mrl_jax.demo.small_stage import StageConfig, StageState, advance, fit
from mrl_jax.losses.matryoshka import matryoshka_infonce
from mrl_jax.models.init import initial_tower
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder

LENGTHS = 16
"""Queries are padded to multiples of this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextStageConfig(StageConfig):
    """How the text tower is trained.

    Attributes:
        batch_size: pairs in a step.
        dims: widths of the nested prefixes.
        temperature: of InfoNCE.
        most_repeats: each token of a query is repeated 1 to this many times, drawn anew at
            each step, as a sound lasts several frames and the fusion head gives a token for
            each of them. 1 leaves queries unchanged.
        gap_token: put up to `most_repeats` - 1 times before and between the tokens of a
            query, for frames of silence; none by default.
        noise: standard deviation of normal noise on the vectors of a query's tokens, relative
            to their root mean square over the vocabulary: a fusion head's tokens are inexact.
    """

    batch_size: int
    dims: tuple[int, ...]
    temperature: float = 0.05
    most_repeats: int = 1
    gap_token: int | None = None
    noise: float = 0.0


def train_text_tower(
    config: Qwen3Config,
    queries: Sequence[Sequence[int]],
    documents: Sequence[Sequence[int]],
    stage: TextStageConfig,
    *,
    pairs: Sequence[TextPair] | None = None,
    task_weights: Mapping[str, float] | None = None,
    progress: bool = True,
) -> Qwen3Encoder:
    """Train a text tower from random weights on pairs of token ids.

    Args:
        config: sizes of the tower.
        queries: ids of each query, its end token last.
        documents: ids of the document of each query, its end token last. Equal documents,
            and equal queries, are never each other's negatives.
        stage: steps, sizes and rates.
        pairs: what they are the tokens of, where there are several tasks: each batch is then of
            one of them, and ids stand for texts.
        task_weights: of the tasks of `pairs`, see `PairPlan`.
        progress: whether to show a progress bar.

    Raises:
        MrlError: fewer pairs than a batch; a loss that is not finite.
    """
    plan = PairPlan(
        list(map(len, queries)),
        None if pairs is None else [pair.task for pair in pairs],
        batch_size=stage.batch_size,
        weights=task_weights,
        seed=stage.seed,
    )
    plain = [TextPair(query="", document="")] * len(queries)
    query_ids, document_ids = pair_identities(pairs or plain, queries, documents)
    document_size = max(map(len, documents))
    graphdef, params = nnx.split(initial_tower(config, stage.seed))

    def batch_of(number: int) -> tuple[TextBatch, Array]:
        rng = np.random.default_rng((stage.seed, number))
        rows = plan(number)
        stretched = [stretch(queries[row], stage, rng) for row in rows]
        query_size = -(-max(map(len, stretched)) // LENGTHS) * LENGTHS
        query, query_mask = pad_tokens(stretched, query_size)
        document, document_mask = pad_tokens([documents[row] for row in rows], document_size)
        batch = TextBatch(
            query=query,
            query_mask=query_mask,
            document=document,
            document_mask=document_mask,
            query_ids=query_ids[rows],
            document_ids=document_ids[rows],
        )
        return batch, jax.random.key(number)

    def step(state: StageState, batch: tuple[TextBatch, Array]) -> tuple[StageState, Array]:
        return _step(state, *batch, graphdef=graphdef, stage=stage)

    return nnx.merge(graphdef, fit("text", params, stage, step, batch_of, progress=progress))


@functools.partial(jax.jit, static_argnames=("graphdef", "stage"))
def _step(
    state: StageState,
    batch: TextBatch,
    key: Array,
    *,
    graphdef: nnx.GraphDef[Qwen3Encoder],
    stage: TextStageConfig,
) -> tuple[StageState, Float32[Array, ""]]:
    """One step: the new state, and the loss."""

    def loss_of(params: Any) -> Float32[Array, ""]:
        tower = nnx.merge(graphdef, params)
        vectors = tower.embed_tokens(batch.query)
        if stage.noise:
            size = jnp.sqrt(jnp.mean(jnp.square(tower.embed_tokens.embedding[...])))
            vectors += stage.noise * size * jax.random.normal(key, vectors.shape)
        return matryoshka_infonce(
            tower.embed(vectors, batch.query_mask),
            tower.embed(batch.document, batch.document_mask),
            dims=stage.dims,
            temperature=stage.temperature,
            symmetric=True,
            query_ids=batch.query_ids,
            document_ids=batch.document_ids,
        ).total

    return advance(state, loss_of, stage)


def stretch(ids: Sequence[int], stage: TextStageConfig, rng: np.random.Generator) -> list[int]:
    """A query's ids with every token repeated, gaps in between, and the end token once."""
    most, gap = stage.most_repeats, stage.gap_token
    if most == 1:
        return list(ids)
    stretched: list[int] = []
    for token in ids[:-1]:
        if gap is not None:
            stretched += [gap] * int(rng.integers(0, most))
        stretched += [token] * int(rng.integers(1, most + 1))
    return [*stretched, ids[-1]]
