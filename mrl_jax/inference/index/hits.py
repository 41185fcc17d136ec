"""What a search of an index finds, and which documents a filter takes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.data.sets.corpus import CorpusDocument
from mrl_jax.inference.index.documents import DocumentStore

Filter = Callable[[Mapping[str, Any]], bool]
"""Of a document's fields, its id, text and title among them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hit:
    """A document that was found.

    Attributes:
        score: cosine of the query and the vector that is stored.
        document: id, text, title, span and fields.
    """

    score: float
    document: CorpusDocument

    @property
    def id(self) -> str:
        return self.document.id

    @property
    def text(self) -> str:
        return self.document.text

    @property
    def title(self) -> str | None:
        return self.document.title

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.document.fields

    @property
    def span(self) -> tuple[int, int] | None:
        return self.document.span


class Passes:
    """Which documents a filter takes, each asked about once."""

    def __init__(self, documents: DocumentStore, filter: Filter | None):
        self._documents, self._filter = documents, filter
        self._known: dict[int, bool] = {}

    def of(self, rows: Int[HostArray, " R"]) -> Bool[HostArray, " R"]:
        if self._filter is None:
            return np.ones(len(rows), bool)
        return np.asarray([self._passes(row) for row in rows.tolist()], bool)

    def _passes(self, row: int) -> bool:
        if row not in self._known:
            assert self._filter is not None
            document = self._documents[row]
            own = {name: getattr(document, name) for name in ("id", "text", "title")}
            self._known[row] = bool(self._filter({**document.fields, **own}))
        return self._known[row]
