"""A model as LangChain's `Embeddings`, for documents, written queries and spoken ones."""

from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.extras import optional_imports
from mrl_jax.inference.embedder import Clip, Embedder
from mrl_jax.integrations.prompted import PromptedEmbedder

with optional_imports("mrl_jax.integrations.langchain"):
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables.config import run_in_executor


class MrlEmbeddings(Embeddings):
    """Vectors for LangChain's vector stores, all of unit length.

    Args:
        model: the embedder, or the folder of a model.
        task: of the queries, whose prompt is put before each; by default that without a name.
        prompt: or the words themselves.
        dim: length of the vectors; by default that of the embedder.

    Raises:
        MrlError: no such model; a task that it has no prompt for; a dim that it does not have.
    """

    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        task: str | None = None,
        prompt: str | None = None,
        dim: int | None = None,
    ):
        self._model = PromptedEmbedder(model, task=task, prompt=prompt, dim=dim)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents."""
        return self._model.documents(texts).tolist() if texts else []

    def embed_query(self, text: str) -> list[float]:
        """The vector of a written query.

        Raises:
            MrlError: it is empty.
        """
        return self._model.queries([text])[0].tolist()

    def embed_audio(self, clips: Sequence[Clip]) -> list[list[float]]:
        """Vectors of spoken queries.

        Args:
            clips: files, or pairs of samples and sample rate.

        Raises:
            MrlError: a recording that cannot be read or embedded.
        """
        return self._model.recordings(clips).tolist() if len(clips) else []

    async def aembed_audio(self, clips: Sequence[Clip]) -> list[list[float]]:
        """`embed_audio` in a thread."""
        return await run_in_executor(None, self.embed_audio, clips)
