"""Texts to vectors by a text tower alone, in batches of few shapes."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mrl_jax import param_tree
from mrl_jax.array_types import Float32, HostArray
from mrl_jax.data.text import TextTokenizer, pad_tokens
from mrl_jax.models.qwen3 import Qwen3Encoder


class TextEmbedder:
    """Unit vectors of texts.

    Args:
        tower: the text tower.
        tokenizer: its own.
        batch_size: texts in a batch.
    """

    def __init__(self, tower: Qwen3Encoder, tokenizer: TextTokenizer, *, batch_size: int = 16):
        self._tokenizer, self.batch_size = tokenizer, batch_size
        split = param_tree.split(tower)
        self._arrays = (split.trained, split.frozen)

        def embed(trained: Any, frozen: Any, ids: Any, mask: Any) -> Any:
            return split.rebuild(trained, frozen).embed(ids, mask)

        self._embed = jax.jit(embed)

    def __call__(
        self, texts: Sequence[str], *, progress: str | None = None
    ) -> Float32[HostArray, "N E"]:
        """[N, E]; an empty text is its end token.

        Args:
            texts: at least one.
            progress: name of a progress bar.
        """
        tokens = self._tokenizer.encode(texts)
        order = np.argsort([-len(ids) for ids in tokens], kind="stable")
        found: dict[int, HostArray] = {}
        with tqdm(total=len(order), desc=progress, disable=progress is None, leave=False) as bar:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size].tolist()
                # The first stands in for those that are missing: one shape less to compile.
                filled = [*rows, *[rows[0]] * (self.batch_size - len(rows))]
                size = -(-len(tokens[rows[0]]) // 16) * 16
                inputs = pad_tokens([tokens[row] for row in filled], size)
                vectors = np.asarray(self._embed(*self._arrays, *inputs), np.float32)
                found.update(zip(rows, vectors[: len(rows)], strict=True))
                bar.update(len(rows))
        return np.stack([found[row] for row in range(len(texts))])
