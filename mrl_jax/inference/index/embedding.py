"""From documents to their vectors: what is embedded, at which dim, and which ids are refused."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.corpus import CorpusDocument, as_document
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.description import IndexConfig, IndexOptions

BLOCK = 4096
"""Documents that are embedded at once."""
Documents = Iterable[CorpusDocument | Mapping[str, Any] | str]


def config_for(embedder: Embedder, options: IndexOptions) -> IndexConfig:
    """The options, checked, with the dim that the embedder has by default."""
    config = IndexConfig(**options)
    config.check_installed()
    default = embedder.width if embedder.search_config is None else embedder.search_config.dim
    config = dataclasses.replace(config, dim=default if config.dim is None else config.dim)
    if config.prefix is not None and embedder.model.separate_dims:
        problem = "the model has separate query vectors for its dimensions, and no prefixes"
        raise MrlError(problem, where="prefix", hint="leave it out")
    return config


def dim_of(embedder: Embedder, dim: int | None) -> int | None:
    """As the embedder takes it: None for the full width, which need not be one of its dims."""
    return None if dim == embedder.width and embedder.search_config is None else dim


def embed_documents(
    embedder: Embedder,
    documents: Documents,
    config: IndexConfig,
    *,
    progress: bool,
    taken: Mapping[str, int] | None = None,
) -> tuple[list[CorpusDocument], HostArray]:
    """Documents and their vectors."""
    named: list[CorpusDocument] = []
    parts: list[HostArray] = []
    dim = dim_of(embedder, config.dim)
    with tqdm(disable=not progress, desc="documents", unit="") as bar:
        numbered = _checked(documents, taken or {})
        while block := list(itertools.islice(numbered, BLOCK)):
            parts.append(embedder.embed_text([d.embedded_text for d in block], dim=dim))
            named += block
            bar.update(len(block))
    width = config.dim or embedder.width
    return named, np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


def named_documents(
    documents: Documents, taken: Mapping[str, int] | None = None
) -> list[CorpusDocument]:
    """The documents, checked."""
    return list(_checked(documents, taken or {}))


def _checked(documents: Documents, taken: Mapping[str, int]) -> Iterable[CorpusDocument]:
    """Documents, none of which has the id of another or one of those that are `taken`."""
    seen: set[str] = set()
    for number, value in enumerate(documents):
        document = as_document(value, number)
        if document.id in seen:
            problem = f"the id {document.id!r} is that of two documents"
            raise MrlError(problem, hint="give each document its own id")
        if document.id in taken:
            problem = f"a document {document.id!r} is in the index already"
            raise MrlError(problem, hint="remove it first, or give the new one another id")
        seen.add(document.id)
        yield document
