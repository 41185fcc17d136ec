"""Tokenised texts to vectors, in batches of few shapes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mrl_jax.array_types import Float32, HostArray
from mrl_jax.data.text import pad_tokens
from mrl_jax.data.text_pairs import padded_tokens
from mrl_jax.hosts import put_shared


def embed_tokens(
    embed: Callable[[Any, Any], Any],
    tokens: Sequence[Sequence[int]],
    *,
    sharding: jax.sharding.Sharding | None = None,
    batch_size: int = 32,
    progress: str | None = None,
) -> Float32[HostArray, "R E"]:
    """Embed texts, longest first.

    Args:
        embed: (ids [B, L], mask [B, L]) to [B, E], compiled by the caller.
        tokens: ids of each text, its end token last.
        sharding: where batches go; rows are shared out over its devices, of all hosts if it
            has them; `embed` then gives every host the whole.
        batch_size: rows in a batch, rounded up to a multiple of the devices.
        progress: name of a progress bar.
    """
    devices = 1 if sharding is None else len(sharding.device_set)
    batch_size = -(-batch_size // devices) * devices
    order = np.argsort([-len(ids) for ids in tokens], kind="stable")
    found: dict[int, HostArray] = {}
    with tqdm(total=len(order), desc=progress, disable=progress is None, leave=False) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            # The first row stands in for those that are missing: one shape less to compile.
            filled = np.concatenate((rows, np.full(batch_size - len(rows), rows[0])))
            size = padded_tokens(len(tokens[rows[0]]))
            inputs: Any = pad_tokens([tokens[row] for row in filled], size)
            if sharding is not None:
                inputs = put_shared(inputs, sharding)
            vectors = np.asarray(embed(*inputs), np.float32)
            found.update(zip(rows.tolist(), vectors[: len(rows)], strict=True))
            bar.update(len(rows))
    return np.stack([found[row] for row in range(len(tokens))])
