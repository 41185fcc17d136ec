"""Batches of pairs of texts, tokenised, as a pure function of (seed, step)."""

import dataclasses
import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import host_rows
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.plan import identities
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.prompts import prompt_of
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens

POOL = 8
"""Batches whose pairs are sorted by length together."""

SHORTEST = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextBatchConfig:
    """How pairs become batches.

    Attributes:
        batch_size: pairs in a step, over all devices and all parts of an accumulation.
        max_tokens: longer texts lose their tail.
        prompts: sentence of each task, put as "<sentence>\\nQuery:" before its queries;
            without any, tasks have no prompts.
    """

    batch_size: int = 128
    max_tokens: int = 2048
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            problem = f"data.batch.batch_size is {self.batch_size}, expected 2 or more"
            raise MrlError(f"{problem}: the other pairs of a batch are the negatives")
        if self.max_tokens < 2:
            raise MrlError(f"data.batch.max_tokens is {self.max_tokens}, expected 2 or more")


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
    """

    query: Any
    query_mask: Any
    document: Any
    document_mask: Any
    query_ids: Any
    document_ids: Any


def prompted(pairs: Sequence[TextPair], prompts: Mapping[str, str]) -> list[str]:
    """Queries with the prompt of their task before them, see `prompt_of`."""
    return [prompt_of(pair.task, prompts, pair.where) + pair.query for pair in pairs]


class TextPairSource:
    """Batches of pairs: a pure function of (seed, step).

    Args:
        pairs, config: what to train on, and how to batch it.
        tokenizer: the tower's; it cuts texts to its own `max_tokens`.
        seed: of the order.
        shard: (this host's number, number of hosts): whose rows of each batch are given.

    Raises:
        MrlError: fewer pairs than a batch; a task without a prompt.
    """

    def __init__(
        self,
        pairs: Sequence[TextPair],
        tokenizer: TextTokenizer,
        config: TextBatchConfig,
        *,
        seed: int,
        shard: tuple[int, int] = (0, 1),
    ):
        if len(pairs) < config.batch_size:
            least = f"expected at least the {config.batch_size} of one batch"
            lower = "lower data.batch.batch_size (with optim.accumulation_steps)"
            hint = f"{lower} to {len(pairs)} or less, or bring more pairs"
            raise MrlError(f"there are {len(pairs)} pairs of texts, {least}", hint=hint)
        self.config, self.seed, self._shard = config, seed, shard
        self._queries = tokenizer.encode(prompted(pairs, config.prompts))
        self._documents = tokenizer.encode([pair.document for pair in pairs])
        self._ids = identities(self._queries), identities(self._documents)
        both = zip(self._queries, self._documents, strict=True)
        self._lengths = np.asarray([len(query) + len(document) for query, document in both])
        self._epoch: tuple[int, list[HostArray]] = -1, []
        self.cut = sum(len(ids) >= config.max_tokens for ids in (*self._queries, *self._documents))
        """Texts that fill `max_tokens`, and so may have lost their tail."""

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches; the pairs left over are drawn anew in each epoch."""
        return len(self._lengths) // self.config.batch_size

    @property
    def largest_id(self) -> int:
        """The largest token id, which the tower must have an embedding for."""
        return max(max(ids) for ids in (*self._queries, *self._documents))

    def __call__(self, step: int) -> TextBatch:
        """This host's rows of the batch of step `step`, counted from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            batches = alike_batches(self._lengths, self.config.batch_size, self.seed, epoch)
            self._epoch = epoch, batches
        rows = self._epoch[1][place]
        # Those of other hosts as well: shapes are the same on every host.
        query, query_mask = _padded([self._queries[row] for row in rows])
        document, document_mask = _padded([self._documents[row] for row in rows])
        mine = host_rows(len(rows), self._shard)
        return TextBatch(
            query=query[mine],
            query_mask=query_mask[mine],
            document=document[mine],
            document_mask=document_mask[mine],
            query_ids=self._ids[0][rows][mine],
            document_ids=self._ids[1][rows][mine],
        )

    def from_step(self, start: int) -> Generator[TextBatch, None, None]:
        """The batches from step `start` on, without end."""
        for step in itertools.count(start):
            yield self(step)


def alike_batches(
    lengths: Sequence[int] | HostArray, batch_size: int, seed: int, epoch: int
) -> list[HostArray]:
    """Rows of every batch of an epoch, of similar lengths: sorted within each `POOL` batches.

    Every row is there at most once; fewer than `batch_size` are left out.
    """
    lengths = np.asarray(lengths)
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    batches: list[HostArray] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        whole = len(pool) // batch_size * batch_size
        batches += list(pool[:whole].reshape(-1, batch_size))
    return [batches[place] for place in rng.permutation(len(batches))]


def padded_tokens(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, …: few shapes, and at most half of it padding."""
    size = SHORTEST
    while size < length:
        if size * 3 // 2 >= length:
            return size * 3 // 2
        size *= 2
    return size


def _padded(ids: Sequence[Sequence[int]]) -> tuple[HostArray, HostArray]:
    return pad_tokens(ids, padded_tokens(max(map(len, ids))))
