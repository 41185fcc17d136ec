"""Short texts packed into rows of one length, several in each, as a batch of the text stage.

Source: packing of sequences with attention within each, Krell et al., 2021 (arXiv 2107.02027).
"""

import dataclasses
import itertools
from collections.abc import Generator
from typing import Any

import jax
import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import host_rows
from mrl_jax.data.batches.text import TextPairSource
from mrl_jax.data.batches.text_shapes import few_shapes, fitting_shape

SHORTEST_ROW = 128
"""Tokens of a row at the least: shorter ones leave more of their ends empty."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedTextBatch:
    """One step's pairs, packed by groups; as in `batch.Batch`, fields carry no shapes.

    A group is what one device computes at once: its pairs of one part of an accumulation. Its
    T texts are its T / 2 queries and then their documents.

    Attributes:
        tokens: [groups, rows, L] int32, token ids of several texts in each row.
        texts: [groups, rows, L] int32, number in the group of the text that a token is of; T
            where there is none.
        firsts: [groups, T] int32, place of each text's first token, counted over the rows of its
            group.
        lengths: [groups, T] int32, tokens of each text.
        query_ids: [B] int32, equal for two pairs with the same query.
        document_ids: [B] int32, equal for two pairs with the same document.
    """

    tokens: Any
    texts: Any
    firsts: Any
    lengths: Any
    query_ids: Any
    document_ids: Any


class PackedPairSource:
    """The batches of a `TextPairSource`, packed: the same pairs in every step.

    Args:
        source: of the pairs, without noise.
        split: (devices of all hosts, parts of an accumulation): how a batch becomes groups.
        shard: (this host's number, number of hosts): whose groups of each batch are given.

    Attributes:
        row: tokens of a row, in every batch.
        shapes: numbers of rows of a group, in every epoch.
    """

    def __init__(
        self, source: TextPairSource, split: tuple[int, int], *, shard: tuple[int, int] = (0, 1)
    ):
        self._source, self._split, self._shard = source, split, shard
        self.row = max(SHORTEST_ROW, -(-int(source.lengths.max()) // 8) * 8)
        self.shapes = few_shapes(
            ((self._needed(step),) for step in range(source.batches_per_epoch)),
            (self._limit(),),
            rounded=rounded_rows,
        )

    def __call__(self, step: int) -> PackedTextBatch:
        """This host's groups of the batch of step `step`, counted from 0."""
        # Rows that groups of other hosts need count as well: shapes are the same on every host.
        (rows,) = fitting_shape(self.shapes, self._needed(step))
        groups = self._groups(step)
        mine = groups[host_rows(len(groups), self._shard)]
        query_ids, document_ids = (
            ids[host_rows(len(ids), self._shard)] for ids in self._source.identities_of(step)
        )
        shape, count = (len(mine), rows, self.row), 2 * mine.shape[1]
        tokens, texts = np.zeros(shape, np.int32), np.full(shape, count, np.int32)
        lengths = self._of_groups(mine).astype(np.int32)
        firsts = np.stack([first_fit(group, self.row)[0] for group in lengths]).astype(np.int32)
        for number, pairs in enumerate(mine):
            sides = self._source.queries, self._source.documents
            ids = (side[pair] for side in sides for pair in pairs)
            for text, (first, of_text) in enumerate(zip(firsts[number], ids, strict=True)):
                places = slice(first, first + len(of_text))
                tokens[number].reshape(-1)[places] = of_text
                texts[number].reshape(-1)[places] = text
        return PackedTextBatch(
            tokens=tokens,
            texts=texts,
            firsts=firsts,
            lengths=lengths,
            query_ids=query_ids,
            document_ids=document_ids,
        )

    def from_step(self, start: int) -> Generator[PackedTextBatch, None, None]:
        """The batches from step `start` on, without end."""
        for step in itertools.count(start):
            yield self(step)

    def _groups(self, step: int) -> HostArray:
        """[groups, pairs] of a batch: a device has pairs in a row, a part of it every so-manieth.

        This is how `Devices.put_batch` and `grad_cache.rows_of` divide its rows.
        """
        devices, parts = self._split
        pairs = self._source.plan(step).reshape(devices, -1, parts).swapaxes(1, 2)
        return pairs.reshape(devices * parts, -1)

    def _of_groups(self, groups: HostArray) -> HostArray:
        """[groups, T] tokens of each text of groups [groups, pairs]."""
        return np.concatenate([side[groups] for side in self._source.lengths], axis=1)

    def _needed(self, step: int) -> int:
        """Rows that the group with the most of them needs."""
        groups = self._of_groups(self._groups(step))
        return max(first_fit(lengths, self.row)[1] for lengths in groups)

    def _limit(self) -> int:
        """Rows that no group needs more of, whatever its pairs."""
        pairs = self._groups(0).shape[1]
        longest = np.sort(self._source.lengths, axis=1)[:, -pairs:]
        # The texts of any two rows are more than one row holds.
        return min(2 * pairs, 2 * int(longest.sum()) // self.row + 1)


def first_fit(lengths: HostArray, row: int, *, most: int | None = None) -> tuple[HostArray, int]:
    """Where whole texts are put: the longest first, each into the first row that has room for it.

    Args:
        lengths: [T], tokens of each text, 1 to `row`.
        row: tokens of a row.
        most: texts of a row, at most; None for no such bound.

    Returns:
        [T] int64, place of each text's first token, counted over all rows; the number of rows.
    """
    room = np.full(len(lengths), row, np.int64)
    texts = np.full(len(lengths), len(lengths) if most is None else most, np.int64)
    firsts = np.zeros(len(lengths), np.int64)
    for text in np.argsort(-lengths, kind="stable"):
        number = int(np.argmax((room >= lengths[text]) & (texts > 0)))
        firsts[text] = (number + 1) * row - room[number]
        room[number] -= lengths[text]
        texts[number] -= 1
    return firsts, int((room < row).sum())


def rounded_rows(rows: int) -> int:
    """The next of 1 to 32, 34, 36, …, 64, 68, …: at most a sixteenth more."""
    step = max(1, 1 << max(0, (rows - 1).bit_length() - 5))
    return -(-rows // step) * step
