"""Texts to vectors by a text tower alone, in batches of few shapes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.data.batches.text_shapes import padded_tokens
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens
from mrl_jax.inference.batching import busy_places, embed_batches
from mrl_jax.inference.programs import compile_program, count_flops
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.nn import param_tree


class TextEmbedder:
    """Unit vectors of texts by a text tower and its own tokenizer.

    Attributes:
        parameters: of the tower.
    """

    def __init__(self, tower: Qwen3Encoder, tokenizer: TextTokenizer, *, batch_size: int = 16):
        self.parameters = param_tree.count(param_tree.flat_weights(tower))
        self._tokenizer, self._batch_size = tokenizer, batch_size
        split = param_tree.split(tower)
        self._arrays = (split.trained, split.frozen)
        self._rebuild = split.rebuild
        self._embed = compile_program(split.rebuild, _embed)

    def __call__(
        self, texts: Sequence[str], *, documents: bool = False, progress: str | None = None
    ) -> Float32[HostArray, "N E"]:
        """Vectors of at least one text; an empty one is its end token.

        `documents` get the prompt that the tower's own files may have for them.
        """
        encode = self._tokenizer.encode_documents if documents else self._tokenizer.encode
        return embed_tokens(
            functools.partial(self._embed, *self._arrays),
            encode(texts),
            batch_size=min(self._batch_size, len(texts)),
            progress=progress,
        )

    def flops(self, text: str) -> float:
        """Floating-point operations of one text alone, as `count_flops` counts them."""
        inputs = _padded(self._tokenizer.encode([text]))
        return count_flops(self._rebuild, _embed, *self._arrays, *inputs)


def embed_tokens(
    embed: Callable[[Any, Any], Any],
    tokens: Sequence[Sequence[int]],
    *,
    sharding: jax.sharding.Sharding | None = None,
    batch_size: int = 32,
    progress: str | None = None,
) -> Float32[HostArray, "R E"]:
    """Embed texts, the longest first.

    Args:
        embed: (ids [B, L], mask [B, L]) to [B, E], compiled by the caller.
        tokens: ids of each text, its end token last; at least one text.
        sharding, batch_size, progress: as in `run_batches`.
    """
    return embed_batches(
        [len(ids) for ids in tokens],
        lambda rows: _padded([tokens[row] for row in rows]),
        embed,
        batch_size=batch_size,
        sharding=sharding,
        busy=busy_places("texts"),
        progress=progress,
    )


def _embed(tower: Qwen3Encoder, ids: Any, mask: Any) -> Any:
    return tower.embed(ids, mask)


def _padded(tokens: Sequence[Sequence[int]]) -> tuple[HostArray, HostArray]:
    return pad_tokens(tokens, padded_tokens(max(map(len, tokens))))
