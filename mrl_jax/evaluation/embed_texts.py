"""Texts to vectors by a text tower alone, in batches of few shapes."""

from collections.abc import Sequence
from typing import Any

import jax

from mrl_jax import param_tree
from mrl_jax.array_types import Float32, HostArray
from mrl_jax.data.text import TextTokenizer, pad_tokens
from mrl_jax.data.text_pairs import padded_tokens
from mrl_jax.evaluation.encode_text import embed_tokens
from mrl_jax.models.qwen3 import Qwen3Encoder


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
