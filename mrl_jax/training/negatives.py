"""Whether a run's batches have negatives: without any a contrastive loss is 0."""

from collections.abc import Callable, Iterator

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError

BATCHES = 1000
"""Batches that are looked at, from the first on."""
FEW = 0.01
"""Share of rows without a negative that goes unsaid."""
MORE = "raise data.batch.batch_size, or bring examples of more documents and queries"


def check_batch_size(batch_size: int) -> None:
    """Raises an `MrlError` for a batch of one row, which has no negative."""
    if batch_size == 1:
        raise MrlError(
            "data.batch.batch_size is 1, expected 2 or more: the loss compares each document with "
            "the others of its batch",
            hint="raise it (with optim.accumulation_steps where memory is short), or set "
            "loss.name=l1_cosine",
        )


def check_negatives(
    identities: Callable[[int], tuple[HostArray, HostArray]],
    batches_per_epoch: int,
    log: Callable[[str], None],
) -> None:
    """Look through an epoch's batches for rows that have no negative.

    Args:
        identities: number of a batch to its rows' ids of queries [B] and of documents [B].
        batches_per_epoch: how many there are.
        log: is told the share of such rows, where they are more than a few.

    Raises:
        MrlError: no row of any batch has a negative.
    """
    alone = total = 0
    for queries, documents in _batches(identities, batches_per_epoch):
        alone += int((~has_negative(queries, documents)).sum())
        total += len(queries)
    if alone == total:
        problem = "no example has a negative: in every batch all documents, or all queries, are one"
        raise MrlError(problem, where="data.train", hint=MORE)
    if alone > FEW * total:
        log(
            f"warning: {alone / total:.0%} of the examples have no negative in their batch, and a "
            f"loss of 0: {MORE}"
        )


def has_negative(queries: HostArray, documents: HostArray) -> HostArray:
    """[B] bool: whether some other row has neither a row's query nor its document.

    Args:
        queries, documents: [B], equal for equal ones.
    """
    both = np.stack([np.asarray(queries), np.asarray(documents)], axis=1)
    same = _times(both[:, 0]) + _times(both[:, 1]) - _times(both)
    return same < len(both)


def _times(values: HostArray) -> HostArray:
    """How often each row's value is there."""
    _, inverse, counts = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    return counts[inverse.reshape(-1)]


def _batches(
    identities: Callable[[int], tuple[HostArray, HostArray]], count: int
) -> Iterator[tuple[HostArray, HostArray]]:
    return map(identities, range(min(count, BATCHES)))
