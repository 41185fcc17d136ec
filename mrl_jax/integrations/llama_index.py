"""A model as LlamaIndex's `BaseEmbedding`, for nodes, written queries and spoken ones."""

import asyncio
from pathlib import Path
from typing import Any

from mrl_jax.core.extras import optional_imports
from mrl_jax.inference.embedder import Clip, Embedder
from mrl_jax.integrations.prompted import PromptedEmbedder

with optional_imports("mrl_jax.integrations.llama_index"):
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr


class MrlEmbedding(BaseEmbedding):
    """Vectors for LlamaIndex's indices, all of unit length.

    Args:
        model: the embedder, or the folder of a model.
        task: of the queries, whose prompt is put before each; by default that without a name.
        prompt: or the words themselves.
        dim: length of the vectors; by default that of the embedder.
        options: of `BaseEmbedding`, such as `embed_batch_size`.

    Raises:
        MrlError: no such model; a task that it has no prompt for; a dim that it does not have.
    """

    _model: PromptedEmbedder = PrivateAttr()

    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        task: str | None = None,
        prompt: str | None = None,
        dim: int | None = None,
        **options: Any,
    ):
        own = PromptedEmbedder(model, task=task, prompt=prompt, dim=dim)
        folder = own.embedder.folder
        name = own.embedder.info.kind if folder is None else folder.resolve().name
        super().__init__(**{"model_name": name, **options})
        self._model = own

    @classmethod
    def class_name(cls) -> str:
        return "MrlEmbedding"

    def get_audio_embedding(self, clip: Clip) -> list[float]:
        """The vector of a spoken query: a file, or a pair of samples and sample rate.

        Raises:
            MrlError: the recording cannot be read or embedded.
        """
        return self._model.recordings([clip])[0].tolist()

    async def aget_audio_embedding(self, clip: Clip) -> list[float]:
        """`get_audio_embedding` in a thread."""
        return await asyncio.to_thread(self.get_audio_embedding, clip)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._model.queries([query])[0].tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._model.documents(texts).tolist() if texts else []

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
