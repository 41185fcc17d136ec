"""Batches of pairs of texts, tokenised, as a pure function of (seed, step)."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import host_rows
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.plan import identities
from mrl_jax.data.batches.text_plan import PairPlan
from mrl_jax.data.batches.text_shapes import Shape, few_shapes, fitting_shape
from mrl_jax.data.batches.token_noise import TokenNoise, VectorNoise, draw_noise
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.prompts import prompt_of
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens

NOISE_STREAM = 1 << 20
"""Tells the random numbers of token noise from those of the order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextBatchConfig:
    """How pairs become batches.

    Attributes:
        batch_size: pairs in a step, over all devices and all parts of an accumulation.
        max_tokens: longer texts lose their tail.
        prompts: sentence of each task, put as "<sentence>\\nQuery:" before its queries;
            without any, tasks have no prompts.
        task_homogeneous: pairs of one task only in each batch.
        task_weights: of `task_homogeneous` batches: how often those of each task come, relative to
            one another; without any, as often as the task has pairs.
        pack: several texts share a row, instead of a padded row for each; the loss is the same.
            Not together with noise on tokens.
    """

    batch_size: int = 128
    max_tokens: int = 2048
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    task_homogeneous: bool = False
    task_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pack: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            problem = f"data.batch.batch_size is {self.batch_size}, expected 2 or more"
            raise MrlError(f"{problem}: the other pairs of a batch are the negatives")
        if self.max_tokens < 2:
            raise MrlError(f"data.batch.max_tokens is {self.max_tokens}, expected 2 or more")
        weights = self.task_weights
        if weights and not self.task_homogeneous:
            problem = "data.batch.task_weights is set, and batches do not keep to one task"
            raise MrlError(problem, hint="set data.batch.task_homogeneous=true")
        for task, weight in weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                problem = f"data.batch.task_weights.{task} is {weight}, expected 0 or more"
                raise MrlError(problem)
        if weights and not any(weights.values()):
            raise MrlError("data.batch.task_weights is 0 for every task, expected one above it")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextBatch:
    """One step's pairs, row by row; as in `batch.Batch`, fields carry no shapes.

    Attributes:
        query: [B, L] int32, token ids of the queries, prompt and end token included.
        query_mask: [B, L] bool, True at tokens of the query.
        document: [B, L'] int32, token ids of the documents, end token included.
        document_mask: [B, L'] bool, True at tokens of the document.
        query_ids: [B] int32, equal for two rows with the same query.
        document_ids: [B] int32, equal for two rows with the same document.
        noise: on the vectors of the queries' tokens; None for none.
    """

    query: Any
    query_mask: Any
    document: Any
    document_mask: Any
    query_ids: Any
    document_ids: Any
    noise: VectorNoise | None = None


def prompted(pairs: Sequence[TextPair], prompts: Mapping[str, str]) -> list[str]:
    """Queries with the prompt of their task before them, see `prompt_of`."""
    return [prompt_of(pair.task, prompts, pair.where) + pair.query for pair in pairs]


def pair_identities(
    pairs: Sequence[TextPair], queries: Sequence[Sequence[int]], documents: Sequence[Sequence[int]]
) -> tuple[HostArray, HostArray]:
    """[pairs] int32 of queries and of documents: equal for equal ids or, without, equal tokens."""

    def identity(given: str | None, tokens: Sequence[int]) -> Sequence[Any]:
        return tokens if given is None else ("id", given)

    sides = (
        [identity(p.query_id, ids) for p, ids in zip(pairs, queries, strict=True)],
        [identity(p.document_id, ids) for p, ids in zip(pairs, documents, strict=True)],
    )
    return identities(sides[0]), identities(sides[1])


class TextPairSource:
    """Batches of pairs, each text a padded row: a pure function of (seed, step).

    Args:
        pairs, config: what to train on, and how to batch it.
        tokenizer: the tower's; it cuts texts to its own `max_tokens`.
        seed: of the order, and of the noise.
        noise: on the tokens of the queries.
        shard: (this host's number, number of hosts): whose rows of each batch are given.

    Attributes:
        queries, documents: token ids of all pairs.
        lengths: [2, pairs], tokens of the query and of the document of each pair.
        plan: the pairs of each step.

    Raises:
        MrlError: fewer pairs than a batch; a task without a prompt, or without a weight where
            others have one.
    """

    def __init__(
        self,
        pairs: Sequence[TextPair],
        tokenizer: TextTokenizer,
        config: TextBatchConfig,
        *,
        seed: int,
        noise: TokenNoise | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        self.seed, self._shard, self._noise = seed, shard, noise or TokenNoise()
        queries = prompted(pairs, config.prompts)
        self.queries = tokenizer.encode(queries)
        self.documents = tokenizer.encode_documents([pair.document for pair in pairs])
        self._ids = pair_identities(pairs, self.queries, self.documents)
        self.lengths = np.asarray([list(map(len, self.queries)), list(map(len, self.documents))])
        self.plan = PairPlan(
            self.lengths.sum(axis=0),
            [pair.task for pair in pairs] if config.task_homogeneous else None,
            batch_size=config.batch_size,
            weights=config.task_weights,
            seed=seed,
        )
        if self._noise.is_on:
            prompts = [len(q) - len(pair.query) for q, pair in zip(queries, pairs, strict=True)]
            self._suffix_tokens = len(tokenizer.suffix)
            self._prompt_tokens = np.asarray(tokenizer.tokens_before(queries, prompts))
        texts = (*self.queries, *self.documents)
        self.cut = sum(len(ids) >= tokenizer.max_tokens for ids in texts)
        """Texts that fill `max_tokens`, and so may have lost their tail."""

    @functools.cached_property
    def shapes(self) -> list[Shape]:
        """Tokens that queries and documents are padded to, in every epoch."""
        return few_shapes(
            (self._longest(self.plan(step)) for step in range(self.batches_per_epoch)),
            self._longest(self.plan.rows),
        )

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches; the pairs left over are drawn anew in each epoch."""
        return self.plan.batches_per_epoch

    def identities_of(self, step: int) -> tuple[HostArray, HostArray]:
        """The ids of queries and of documents of all rows of batch `step`, as in `TextBatch`."""
        rows = self.plan(step)
        return self._ids[0][rows], self._ids[1][rows]

    @property
    def largest_id(self) -> int:
        """The largest token id, which the tower must have an embedding for."""
        return max(max(ids) for ids in (*self.queries, *self.documents))

    def __call__(self, step: int) -> TextBatch:
        """This host's rows of the batch of step `step`, counted from 0."""
        rows = self.plan(step)
        # Those of other hosts as well: shapes and noise are the same on every host.
        size, document_size = fitting_shape(self.shapes, *self._longest(rows))
        query, query_mask = pad_tokens([self.queries[row] for row in rows], size)
        document, document_mask = pad_tokens([self.documents[row] for row in rows], document_size)
        noise = None
        if self._noise.is_on:
            places = np.arange(query.shape[1])
            after_prompt = places >= self._prompt_tokens[rows, None]
            text_ends = query_mask.sum(axis=1, keepdims=True) - self._suffix_tokens
            before_end = places < text_ends
            query, query_mask, noise = draw_noise(
                self._noise,
                query,
                query_mask,
                after_prompt & before_end,
                key=(self.seed, step, NOISE_STREAM),
            )
        batch = TextBatch(
            query=query,
            query_mask=query_mask,
            document=document,
            document_mask=document_mask,
            query_ids=self._ids[0][rows],
            document_ids=self._ids[1][rows],
            noise=noise,
        )
        mine = host_rows(len(rows), self._shard)
        return jax.tree.map(lambda x: x[mine], batch)

    def _longest(self, rows: HostArray) -> tuple[int, int]:
        """Tokens of the longest query and of the longest document of some pairs."""
        query, document = self.lengths[:, rows].max(axis=1).tolist()
        return query, document

    def from_step(self, start: int) -> Generator[TextBatch, None, None]:
        """The batches from step `start` on, without end."""
        for step in itertools.count(start):
            yield self(step)
