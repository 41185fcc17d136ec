"""Texts to vectors by a text tower alone, in batches of few shapes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import put_global
from mrl_jax.data.batches.text import padded_tokens
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.nn import param_tree


class TextEmbedder:
    """Unit vectors of texts.

    Args:
        tower: the text tower.
        tokenizer: its own.
        batch_size: texts in a batch.

    Attributes:
        width: E, of the vectors.
        parameters: of the tower.
    """

    def __init__(self, tower: Qwen3Encoder, tokenizer: TextTokenizer, *, batch_size: int = 16):
        self.width = tower.config.width
        self.parameters = param_tree.count(param_tree.flat_weights(tower))
        self._tokenizer, self._batch_size = tokenizer, batch_size
        split = param_tree.split(tower)
        self._arrays = (split.trained, split.frozen)
        self._rebuild = split.rebuild

        def embed(trained: Any, frozen: Any, ids: Any, mask: Any) -> Any:
            return split.rebuild(trained, frozen).embed(ids, mask)

        self._embed = jax.jit(embed)

    def __call__(
        self, texts: Sequence[str], *, progress: str | None = None
    ) -> Float32[HostArray, "N E"]:
        """[N, E]; an empty text is its end token.

        Args:
            texts: at least one; one alone is a batch of its own.
            progress: name of a progress bar.
        """
        return embed_tokens(
            lambda ids, mask: self._embed(*self._arrays, ids, mask),
            self._tokenizer.encode(texts),
            batch_size=min(self._batch_size, len(texts)),
            progress=progress,
        )

    def flops(self, text: str) -> float:
        """Floating-point operations of one text alone, as `Encoder.flops` counts them."""

        def program(trained: Any, frozen: Any, ids: Any, mask: Any) -> Any:
            tower = self._rebuild(trained, frozen)
            tower.unroll, tower.remat = True, False
            return tower.embed(ids, mask)

        tokens = self._tokenizer.encode([text])
        inputs = pad_tokens(tokens, padded_tokens(len(tokens[0])))
        counted = jax.jit(program).lower(*self._arrays, *inputs).cost_analysis()
        return float((counted or {}).get("flops", "nan"))


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
                inputs = put_global(inputs, sharding)
            vectors = np.asarray(embed(*inputs), np.float32)
            found.update(zip(rows.tolist(), vectors[: len(rows)], strict=True))
            bar.update(len(rows))
    return np.stack([found[row] for row in range(len(tokens))])
