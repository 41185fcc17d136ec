"""Queries of an index, given as vectors, recordings or texts, as unit vectors of its width."""

from collections.abc import Callable, Sequence

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.embedder import Clip, Embedder, EmbedOptions
from mrl_jax.inference.index.embedding import dim_of
from mrl_jax.inference.search.exact import truncate


def query_vectors(
    embedder: Callable[[], Embedder],
    dim: int,
    *,
    vectors: HostArray | None,
    audio: Sequence[Clip] | None,
    text: Sequence[str] | None,
    options: EmbedOptions,
    where: object = None,
) -> HostArray:
    """[Q, dim] float32 vectors of one kind of queries.

    Args:
        embedder: called for what embeds queries, if these are no vectors.
        dim: coordinates of the vectors that are searched.
        vectors, audio, text: the queries; one of them.
        options: task or prompt of the queries, as of `Embedder`.
        where: what is searched, for errors.

    Raises:
        MrlError: not one kind of queries; vectors of another width; an empty text; a recording
            that cannot be read.
    """
    if sum(kind is not None for kind in (vectors, audio, text)) != 1:
        raise MrlError("expected one of vectors, audio and text", hint="pass one of them")
    if vectors is not None:
        check_width(vectors, dim, where)
        return truncate(vectors, None)
    model = embedder()
    options = {**options, "dim": dim_of(model, dim)}
    if audio is not None:
        return model.embed_speech(audio, **options)
    assert text is not None
    check_questions(text)
    return model.embed_text(text, **options)


def check_questions(texts: Sequence[str]) -> None:
    """Raises an `MrlError` where a written query is empty."""
    if empty := [number for number, one in enumerate(texts) if not str(one).strip()]:
        raise MrlError(f"the question {empty[0]} is empty", hint="write what to search for")


def check_width(vectors: HostArray, dim: int, where: object = None) -> None:
    """Raises an `MrlError` for vectors that are not of an index's width, or not finite."""
    if vectors.shape[1] != dim:
        problem = f"the vectors have {vectors.shape[1]} coordinates, and the index {dim}"
        raise MrlError(problem, where=where, hint="embed them as the documents were")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise MrlError(f"the vector {row} is not finite", hint="check what made it")
