"""Many texts embedded several to a row: hardly any padding, and one shape for all.

Padded to the length of their batch, short texts waste up to a fifth of a CPU's time, and compile a
program for each such length.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import put_global
from mrl_jax.data.batches.packing import first_fit
from mrl_jax.inference.batching import device_count, padded_places

ROW = 256
"""Tokens of a row: several texts share one, and attention to the others is computed for nothing."""
ROWS = 4
"""Rows that one device computes at once: a CPU is no faster with more."""
TEXTS = 256
"""Texts in these rows, at most."""
FEWEST = 4
"""Batches from which on the unfilled end of the last costs less than padding does."""
TOGETHER = 2048
"""Texts that are shared out among rows together: of all lengths, as they come."""


def packing_pays(lengths: Sequence[int], devices: int = 1) -> bool:
    """Whether texts of so many tokens are packed: on a CPU, where it leaves fewer places empty.

    On a GPU attention among texts of one row would not be fused. The first texts stand for all.
    """
    short = np.array([length for length in lengths if length <= ROW], np.int64)
    if jax.default_backend() != "cpu" or short.sum() < FEWEST * devices * ROWS * ROW:
        return False
    some = short[:TOGETHER]
    return _fit(some)[1] * ROW <= int(padded_places(some).sum())


def embed_packed(
    tokens: Sequence[Sequence[int]],
    program: Callable[..., Any],
    *,
    sharding: jax.sharding.Sharding | None = None,
    progress: str | None = None,
) -> Float32[HostArray, "N E"]:
    """Embed texts of at most `ROW` tokens, at least one; equal ones once.

    Args:
        tokens: ids of each text, one or more.
        program: the inputs of `Qwen3Encoder.embed_packed` to vectors [groups, TEXTS, E].
        sharding: of the groups, one on each device, as in `run_batches`.
        progress: name of a progress bar.
    """
    groups = device_count(sharding)
    numbers: dict[tuple[int, ...], int] = {}
    number_of = [numbers.setdefault(tuple(ids), len(numbers)) for ids in tokens]
    tokens = list(numbers)
    vectors: HostArray | None = None
    with tqdm(total=len(tokens), desc=progress, disable=progress is None, leave=False) as bar:
        for start in range(0, len(tokens), TOGETHER):
            for texts, arrays in _batches(tokens[start : start + TOGETHER], groups):
                given = arrays if sharding is None else put_global(arrays, sharding)
                found = np.asarray(program(*given))
                if vectors is None:
                    vectors = np.zeros((len(tokens), found.shape[-1]), np.float32)
                for group, members in enumerate(texts):
                    vectors[start + members] = found[group, : len(members)]
                    bar.update(len(members))
    assert vectors is not None
    return vectors[number_of]


def _fit(lengths: HostArray) -> tuple[HostArray, int]:
    """`first_fit` in such rows, of which any `ROWS` hold at most `TEXTS` texts."""
    return first_fit(lengths, ROW, most=TEXTS // ROWS)


def _batches(
    tokens: Sequence[Sequence[int]], groups: int
) -> Iterator[tuple[list[HostArray], tuple[HostArray, ...]]]:
    """Numbers of each group's texts, and what `Qwen3Encoder.embed_packed` reads."""
    lengths = np.array([len(ids) for ids in tokens])
    firsts, rows = _fit(lengths)
    places = ROWS * ROW
    order = np.argsort(firsts, kind="stable")
    ends = np.searchsorted(firsts[order], np.arange(places, rows * ROW, places))
    of_group = np.split(order, ends)
    for start in range(0, len(of_group), groups):
        batch = of_group[start : start + groups]
        ids = np.zeros((groups, places), np.int32)
        texts = np.full((groups, places), TEXTS, np.int32)
        # Where there is no text, the first token stands for one.
        first, length = np.zeros((groups, TEXTS), np.int32), np.ones((groups, TEXTS), np.int32)
        for group, members in enumerate(batch):
            first[group, : len(members)] = firsts[members] % places
            length[group, : len(members)] = lengths[members]
            for number, text in enumerate(members):
                here = slice(first[group, number], first[group, number] + lengths[text])
                ids[group, here], texts[group, here] = tokens[text], number
        shape = (groups, ROWS, ROW)
        yield batch, (ids.reshape(shape), texts.reshape(shape), first, length)
