"""Documents and their vectors in another program's store, filled from a `SearchIndex`.

What is common to all stores: which index fits what is there, batches, queries, and hits. With the
vectors a store keeps the digest of the model that made them, so that another's are refused.
"""

import abc
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float32
from tqdm import tqdm

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.json_text import parse_json
from mrl_jax.core.records import DAMAGED, as_record
from mrl_jax.data.sets.corpus import CorpusDocument
from mrl_jax.inference.embedder import Clip, Embedder
from mrl_jax.inference.index.description import ModelReference, check_embedder
from mrl_jax.inference.index.embedding import Documents
from mrl_jax.inference.index.hits import Hit
from mrl_jax.inference.index.queries import query_vectors
from mrl_jax.inference.index.search_index import SearchIndex

MARK = "mrl_jax"
"""Key of a store's metadata that `StoreInfo` stands under."""
Scored = tuple[float, Mapping[str, Any]]
"""Cosine of a query with a document, and the document's row as the store has it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What the vectors of a store are.

    Attributes:
        dim: coordinates of each.
        model, rotation: digests, as of `ModelReference`; None for vectors without a model.
        marked: whether the store says so itself; one that was made by hand says only its dim.
    """

    dim: int
    model: str | None = None
    rotation: str | None = None
    marked: bool = True

    @property
    def reference(self) -> ModelReference | None:
        if self.model is None:
            return None
        return ModelReference(path=None, digest=self.model, rotation=self.rotation)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def read(cls, text: str | bytes | None, dim: int, where: str) -> "StoreInfo":
        """From a store's metadata, where it has some, and the width of its vectors.

        Raises:
            MrlError: the metadata is damaged, or of vectors of another width.
        """
        if text is None:
            return cls(dim=dim, marked=False)
        try:
            info = as_record(parse_json(text), cls)
            if info.dim != dim:
                raise ValueError(f"dim is {info.dim}, and the vectors have {dim} coordinates")
        except DAMAGED as error:
            problem = f"its metadata under {MARK!r} is damaged ({first_line(error)})"
            raise MrlError(problem, where=where, hint="load the index into a new one") from error
        return info


class VectorStore(abc.ABC):
    """A store of one kind; see `load` and `search`.

    Attributes:
        where: the store's name, for errors.
    """

    def __init__(self, where: str, embedder: Embedder | None):
        self.where = where
        self._embedder: Callable[[], Embedder] = self._no_embedder
        if embedder is not None:
            self._embedder = lambda: embedder

    @checked
    def load(
        self,
        index: SearchIndex,
        *,
        dim: PositiveInt | None = None,
        batch_size: PositiveInt = 1024,
        progress: bool = False,
    ) -> int:
        """Write the documents of an index and their vectors, and make the store if need be.

        A document that is there already, by its id, is replaced: after a load that was cut off,
        or of an index that has changed, load again.

        Args:
            index: what is loaded. Its model embeds the queries, where the store has none yet.
            dim: coordinates to keep, the first ones; by default all.
            batch_size: documents that are written at once.
            progress: show a progress bar.

        Returns:
            How many documents were written.

        Raises:
            MrlError: the store has vectors of another width or model, or fails; an index of signs
                is to be shortened.
        """
        source = index if dim in (None, index.dim) else index.narrowed(dim)
        model = index.model
        info = StoreInfo(
            dim=source.dim,
            model=None if model is None else model.digest,
            rotation=None if model is None else model.rotation,
        )
        self._make_or_check(info)
        with tqdm(total=len(index), disable=not progress, desc="documents", unit="") as bar:
            for documents, vectors in source.blocks(batch_size):
                with self._failures("cannot write documents"):
                    self._write(documents, vectors)
                bar.update(len(documents))
        if self._embedder == self._no_embedder:
            self._embedder = lambda: index.embedder
        return len(index)

    @checked
    def add(
        self,
        documents: Documents,
        *,
        dim: PositiveInt | None = None,
        batch_size: PositiveInt = 1024,
        progress: bool = False,
    ) -> int:
        """Embed documents with the store's model, and write them as `load` does.

        Args:
            documents: `CorpusDocument`s, mappings with `text` and perhaps `id`, `title` and other
                fields, or texts, whose ids are their numbers: a second list of texts replaces
                the first.
            dim: of the vectors; by default that of those in the store, or of the model.

        Raises:
            MrlError: as `load` and `SearchIndex.build`; no model was given.
        """
        there = self._there()
        if dim is None and there is not None:
            dim = there.dim
        index = SearchIndex.build(self._embedder(), documents, progress=progress, dim=dim)
        return self.load(index, batch_size=batch_size, progress=progress)

    @checked
    def search(
        self,
        vectors: Float32[HostArray, "Q E"] | None = None,
        *,
        audio: Sequence[Clip] | None = None,
        text: Sequence[str] | None = None,
        k: PositiveInt = 10,
        filter: Any = None,
        task: str | None = None,
        prompt: str | None = None,
    ) -> list[list[Hit]]:
        """The k nearest documents of each query, best first, as `SearchIndex.search` gives them.

        Args:
            vectors: of queries; or
            audio: spoken queries, files or pairs of samples and sample rate; or
            text: written queries.
            k: documents a query; fewer where the store has fewer.
            filter: which documents may be found, in the store's own form.
            task, prompt: put before each query, as of `Embedder`.

        Raises:
            MrlError: nothing was loaded; not one kind of queries; vectors of another width; a
                recording that cannot be read; another model than that of the vectors; a filter
                that is none, or the store fails.
        """
        info, size = self._there(), len(self)
        if info is None or not size:
            problem = "is not there" if info is None else "holds no documents"
            raise MrlError(problem, where=self.where, hint="load an index into it first")
        queries = query_vectors(
            lambda: self._checked_embedder(info),
            info.dim,
            vectors=vectors,
            audio=audio,
            text=text,
            options={"task": task, "prompt": prompt},
            where=self.where,
        )
        if not len(queries):
            return []
        with self._failures("cannot search"):
            found = self._nearest(queries, min(k, size), filter)
        return [[self._hit(score, row) for score, row in best] for best in found]

    def __len__(self) -> int:
        """Documents in the store; 0 where it is not there."""
        with self._failures("cannot be read"):
            return self._size()

    @abc.abstractmethod
    def _size(self) -> int:
        """`len` of the store."""

    @abc.abstractmethod
    def _found(self) -> StoreInfo | None:
        """What is there; None for nothing."""

    @abc.abstractmethod
    def _make(self, info: StoreInfo) -> None:
        """Make the store, empty."""

    @abc.abstractmethod
    def _write(self, documents: Sequence[CorpusDocument], vectors: HostArray) -> None:
        """Write documents and vectors in place of those with the same ids."""

    @abc.abstractmethod
    def _nearest(self, queries: HostArray, k: int, filter: Any) -> list[list[Scored]]:
        """The best k of each query, best first.

        Raises:
            MrlError: the filter is none of this store.
        """

    def _document(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a `CorpusDocument` from a row of the store."""
        return dict(row)

    @contextlib.contextmanager
    def _failures(self, problem: str) -> Iterator[None]:
        """Errors of the store's own library become an `MrlError`."""
        try:
            yield
        except MrlError:
            raise
        except Exception as error:  # The libraries have many kinds, some of them bare Exceptions.
            hint = "see that the store is there and can be written, and try again"
            reason = f"{problem} ({first_line(error)})"
            raise MrlError(reason, where=self.where, hint=hint) from error

    def _there(self) -> StoreInfo | None:
        with self._failures("cannot be read"):
            return self._found()

    def _make_or_check(self, info: StoreInfo) -> None:
        there = self._there()
        if there is None:
            with self._failures("cannot be made"):
                self._make(info)
            return
        if there.dim != info.dim:
            problem = f"has vectors of {there.dim} coordinates, and the index of {info.dim}"
            hint = "choose the dim, or load it into a new one"
            raise MrlError(problem, where=self.where, hint=hint)
        if there.marked and (there.model, there.rotation) != (info.model, info.rotation):
            problem = "holds vectors of another model than the index"
            raise MrlError(problem, where=self.where, hint="load it into a new one")

    def _checked_embedder(self, info: StoreInfo) -> Embedder:
        embedder = self._embedder()
        if info.marked:
            check_embedder(info.reference, embedder, where=self.where)
        return embedder

    def _no_embedder(self) -> Embedder:
        problem = "no model was given to embed with"
        raise MrlError(problem, where=self.where, hint="pass it: `embedder=Embedder.load(folder)`")

    def _hit(self, score: float, row: Mapping[str, Any]) -> Hit:
        try:
            return Hit(score=float(score), document=as_record(self._document(row), CorpusDocument))
        except DAMAGED as error:
            problem = f"holds what is no document of ours ({first_line(error)})"
            hint = "search a store that an index was loaded into"
            raise MrlError(problem, where=self.where, hint=hint) from error
