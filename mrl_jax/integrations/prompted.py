"""An `Embedder` with its options chosen once, as frameworks call one: documents and queries."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float32

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.prompts import check_one_prompt, check_task
from mrl_jax.inference.embedder import Clip, Embedder, EmbedOptions
from mrl_jax.inference.index.queries import check_questions
from mrl_jax.inference.search.vectors import check_dim


@checked
class PromptedEmbedder:
    """Embeds documents without a prompt and queries with one, all at one dim.

    Args:
        model: the embedder, or the folder of a model.
        task: of the queries, whose prompt is put before each; by default that without a name.
        prompt: or the words themselves.
        dim: length of the vectors; by default that of the embedder.

    Attributes:
        embedder: the model.

    Raises:
        MrlError: no such model; a task that it has no prompt for, or a task and a prompt; a dim
            that it does not have.
    """

    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        task: str | None = None,
        prompt: str | None = None,
        dim: PositiveInt | None = None,
    ):
        check_one_prompt(task, prompt)
        self.embedder = model if isinstance(model, Embedder) else Embedder.load(model)
        known_task(self.embedder, task)
        known_dim(self.embedder, dim)
        self._documents: EmbedOptions = {"dim": dim}
        self._queries: EmbedOptions = {"dim": dim, "prompt": prompt}
        if prompt is None:
            self._queries["task"] = task or ""

    @checked
    def documents(self, texts: Sequence[str]) -> Float32[HostArray, "N E"]:
        """Unit vectors of documents, at least one."""
        return self.embedder.embed_text(texts, **self._documents)

    @checked
    def queries(self, texts: Sequence[str]) -> Float32[HostArray, "N E"]:
        """Unit vectors of written queries, at least one.

        Raises:
            MrlError: one is empty.
        """
        check_questions(texts)
        return self.embedder.embed_text(texts, **self._queries)

    @checked
    def recordings(self, clips: Sequence[Clip]) -> Float32[HostArray, "N E"]:
        """Unit vectors of spoken queries, at least one.

        Args:
            clips: files, or pairs of samples and sample rate.

        Raises:
            MrlError: a recording that cannot be read or embedded.
        """
        if isinstance(clips, str | Path):
            raise MrlError("is one recording, expected a list", where=clips, hint="write [path]")
        return self.embedder.embed_speech(clips, **self._queries)


def known_task(embedder: Embedder, task: str | None) -> None:
    """Raises an `MrlError` where the model has no prompt for the task; "" is no task."""
    folder = "memory" if embedder.folder is None else embedder.folder
    hint = "correct it, or pass the words themselves as the prompt"
    check_task(task or None, embedder.info.prompts, folder, where=f"task {task!r}", hint=hint)


def known_dim(embedder: Embedder, dim: int | None) -> None:
    """Raises an `MrlError` for a dim that the model's vectors do not have."""
    if dim is not None:
        hint = "choose one of the model's dims"
        check_dim(dim, embedder.width, embedder.model.separate_dims, hint=hint)
