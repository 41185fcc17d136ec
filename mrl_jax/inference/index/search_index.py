"""`SearchIndex`: documents and their vectors, on disk, searched by speech, text or vectors.

index.json                 how it is made, its model by digest, and the digests of all files
documents.jsonl, offsets.npy   a document a line, and where each line begins
vectors.npy, vectors-scale.npy what scores are of; the scales of int8
first.npy, first           the first stage of a search in two (a prefix, signs, a backend's file)

A folder is never changed: `save` writes a new one, without the documents that were removed, and
renames it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
from jaxtyping import Bool, Float32, Int

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.checksums import file_digest
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import output_path, user_path
from mrl_jax.data.sets.corpus import CorpusDocument
from mrl_jax.inference.embedder import Clip, Embedder
from mrl_jax.inference.first_text import FirstText
from mrl_jax.inference.index.backends import EXACT
from mrl_jax.inference.index.description import (
    INDEX_FILE,
    IndexConfig,
    IndexInfo,
    IndexOptions,
    ModelReference,
    check_embedder,
    load_referenced,
    read_info,
    reference_to,
    relative_to,
    write_info,
)
from mrl_jax.inference.index.documents import DocumentStore
from mrl_jax.inference.index.embedding import (
    BLOCK,
    Documents,
    config_for,
    embed_documents,
    named_documents,
)
from mrl_jax.inference.index.first_stage import FirstStage, stored_coding
from mrl_jax.inference.index.hits import Filter, Hit, Passes
from mrl_jax.inference.index.queries import check_width, query_vectors
from mrl_jax.inference.index.stored import StoredVectors, score_again
from mrl_jax.inference.search.exact import truncate

LONGEST_LIST = 4096
"""Candidates beyond which a filter is asked about every document instead."""
VECTORS = "vectors"


class SearchIndex:
    """Documents that can be searched; made by `build`, `from_vectors` or `load`.

    Attributes:
        config: how vectors are stored and searched.
        model: the model that embedded them; None for vectors without one.
        folder: that it was loaded from or saved to.
    """

    def __init__(
        self,
        config: IndexConfig,
        documents: DocumentStore,
        vectors: StoredVectors,
        first: FirstStage | None,
        *,
        model: ModelReference | None = None,
        folder: Path | None = None,
        embedder: Embedder | None = None,
    ):
        self.config, self.model, self.folder = config, model, folder
        self._documents, self._vectors, self._first = documents, vectors, first
        self._live: Bool[HostArray, " N"] = np.ones(len(documents), bool)
        self._embedder = embedder
        self._first_text: FirstText | None = None
        self._row_of: dict[str, int] | None = None
        self._written = None if folder is None else file_digest(folder / INDEX_FILE)

    @classmethod
    def build(
        cls,
        embedder: Embedder,
        documents: Documents,
        *,
        progress: bool = False,
        **options: Unpack[IndexOptions],
    ) -> "SearchIndex":
        """Embed documents and index them, in memory; `save` writes the index.

        Args:
            embedder: with its rotation, if it has one. Of a search config that it has only the
                dim counts.
            documents: `CorpusDocument`s (`read_corpus` reads them), mappings with `text` and
                perhaps `id`, `title` and other fields, or texts.
            progress: show a progress bar.
            options: dim, precision, backend, prefix and shortlist, see `IndexConfig`.

        Raises:
            MrlError: no documents, two of one id, or one without text; an option that does not fit
                the model; the backend's package is absent.
        """
        config = config_for(embedder, options)
        named, vectors = embed_documents(embedder, documents, config, progress=progress)
        return cls._of(named, vectors, config, reference_to(embedder), embedder)

    @classmethod
    def from_vectors(
        cls,
        vectors: Float32[HostArray, "N E"],
        documents: Documents,
        **options: Unpack[IndexOptions],
    ) -> "SearchIndex":
        """An index of vectors that were made elsewhere; it is searched by vectors alone.

        Args:
            vectors: of any length; a dim among the options cuts them.
            documents: in the order of the vectors.
            options: as of `build`.

        Raises:
            MrlError: as `build`; another number of vectors than of documents.
        """
        config = IndexConfig(**options)
        config.check_installed()
        dim = vectors.shape[1] if config.dim is None else config.dim
        config = dataclasses.replace(config, dim=dim)
        if dim > vectors.shape[1]:
            raise MrlError(f"dim is {dim}, and the vectors have {vectors.shape[1]} coordinates")
        named = named_documents(documents)
        _check_count(vectors, named)
        return cls._of(named, truncate(vectors, dim), config, None, None)

    @classmethod
    def _of(
        cls,
        documents: Sequence[CorpusDocument],
        vectors: HostArray,
        config: IndexConfig,
        model: ModelReference | None,
        embedder: Embedder | None,
    ) -> "SearchIndex":
        if not documents:
            raise MrlError("there is no document to index", hint="pass at least one")
        stored = StoredVectors.build(vectors, stored_coding(config.precision))
        first = FirstStage.build(config, stored, vectors)
        store = DocumentStore.of(documents)
        return cls(config, store, stored, first, model=model, embedder=embedder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        embedder: Embedder | None = None,
        verify: bool = True,
        first: FirstText | None = None,
    ) -> "SearchIndex":
        """An index that `save` or `mrl-jax index build` wrote; its vectors stay on the disk.

        Args:
            folder: of the index.
            embedder: of queries; by default the model that embedded the documents is loaded from
                where it was, with the first query that needs it.
            verify: compare all files with their digests first.
            first: the first question, for which the model is loaded, see `Embedder.load`.

        Raises:
            MrlError: no index, a damaged one, or that of another model than the embedder's.
        """
        folder = user_path(folder)
        info = read_info(folder, verify=verify)
        if embedder is not None:
            check_embedder(info.model, embedder, where=folder)
        index = cls(*_parts(folder, info), model=info.model, folder=folder, embedder=embedder)
        index._first_text = first
        return index

    def __len__(self) -> int:
        return int(self._live.sum())

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return self._vectors.width

    @property
    def embedder(self) -> Embedder:
        """What embeds queries and added documents.

        Raises:
            MrlError: the model is not where it was, or is another now.
        """
        if self._embedder is None:
            self._embedder = load_referenced(self.model, self.folder, self._first_text)
        return self._embedder

    @property
    def first_text(self) -> str:
        """The text of the first document."""
        return self._documents[int(self._live.argmax())].text

    @property
    def bytes_per_document(self) -> int:
        """Bytes that the stored vector of a document takes."""
        return self._vectors.bytes_per_vector

    @checked
    def blocks(
        self, rows: PositiveInt = BLOCK
    ) -> Iterator[tuple[list[CorpusDocument], Float32[HostArray, "R E"]]]:
        """The documents and their vectors in order, some at a time: to be copied elsewhere.

        Args:
            rows: documents in a block.

        Yields:
            Documents that are not removed, and their vectors as they are searched, decoded.
        """
        live = np.flatnonzero(self._live)
        for start in range(0, len(live), rows):
            block = live[start : start + rows]
            yield [self._documents[int(row)] for row in block], self._vectors.take(block)

    @checked
    def narrowed(self, dim: PositiveInt) -> "SearchIndex":
        """The same documents by the first `dim` coordinates of their vectors, in memory.

        Its vectors are float32, at unit length, and searched one by one. It has no model and is
        not to be saved: it is for searches by vectors.

        Raises:
            MrlError: the vectors are not so long; they are signs, of which a prefix says little.
        """
        if dim > self.dim:
            raise MrlError(f"dim is {dim}, and the index has {self.dim}", where=self.folder)
        if self._vectors.coding == "binary":
            hint = "build one of another precision"
            raise MrlError("an index of signs has no shorter form", where=self.folder, hint=hint)
        vectors = truncate(self._vectors.decoded(np.ones(len(self._live), bool)), dim)
        config = dataclasses.replace(
            self.config, dim=dim, precision="float32", backend=EXACT, prefix=None
        )
        narrow = SearchIndex(
            config, self._documents, StoredVectors("float32", dim, [vectors]), None
        )
        narrow._live = self._live.copy()
        return narrow

    def add(
        self,
        documents: Documents,
        vectors: Float32[HostArray, "N E"] | None = None,
        *,
        progress: bool = False,
    ) -> None:
        """Add documents; `save` writes them.

        Args:
            documents: as of `build`.
            vectors: theirs, of an index without a model; they are embedded otherwise.
            progress: show a progress bar.

        Raises:
            MrlError: no documents; an id that is there already; vectors of another width or number.
        """
        rows = self._rows()
        if vectors is None:
            named, vectors = embed_documents(
                self.embedder, documents, self.config, progress=progress, taken=rows
            )
        else:
            named = named_documents(documents, taken=rows)
            check_width(vectors, self.dim, self.folder)
            _check_count(vectors, named)
            vectors = truncate(vectors, None)
        if not named:
            raise MrlError("there is no document to add", hint="pass at least one")
        self._vectors.add(vectors)
        if self._first is not None:
            self._first.add(vectors)
        rows |= {document.id: len(self._documents) + i for i, document in enumerate(named)}
        self._documents.add(named)
        self._live = np.concatenate((self._live, np.ones(len(named), bool)))

    def remove(self, ids: Iterable[str]) -> None:
        """Remove documents: they are not found any more, and `save` leaves them out.

        Raises:
            MrlError: an id that is not there or named twice, where nothing is removed; no document
                would be left.
        """
        if isinstance(ids, str):
            raise MrlError("ids is one string, expected a list of them", hint="put it in a list")
        rows, named = self._rows(), list(ids)
        gone = set()
        for name in named:
            if name not in rows:
                hint = did_you_mean(name, rows, otherwise="check the ids")
                problem = f"there is no document {name!r} in the index"
                raise MrlError(problem, where=self.folder, hint=hint)
            if name in gone:
                raise MrlError(f"the document {name!r} is to be removed twice", where=self.folder)
            gone.add(name)
        if len(gone) == len(rows):
            hint = "remove the folder of the index instead"
            raise MrlError("no document would be left", where=self.folder, hint=hint)
        for name in named:
            self._live[rows.pop(name)] = False

    def save(self, folder: str | Path | None = None, *, overwrite: bool = False) -> Path:
        """Write the index, whole or not at all, without the documents that were removed.

        Args:
            folder: to make; by default that of the index is replaced.
            overwrite: replace another index that is there.

        Raises:
            MrlError: the folder exists, or cannot be written; the index was changed by another
                process since it was loaded.
        """
        if folder is None and self.folder is None:
            raise MrlError("the index has no folder yet", hint="name one")
        out = output_path(folder) if folder is not None else self.folder
        assert out is not None
        in_place = self.folder is not None and out.resolve() == self.folder.resolve()
        if in_place and file_digest(out / INDEX_FILE) != self._written:
            problem = "was changed by another process since it was loaded"
            raise MrlError(problem, where=out, hint="load it again, and repeat the change")
        size = 2 * len(self) * self.dim * 4
        overwrite = overwrite or in_place
        with staged_folder(
            out, marker=INDEX_FILE, overwrite=overwrite, needs_bytes=size
        ) as staging:
            self.write(staging, final=out)
        self._read_again(out)
        return out

    def write(self, folder: Path, *, final: Path) -> None:
        """Write the files of the index into an empty folder, which will be called `final`."""
        self._documents.save(folder, self._live)
        self._vectors.save(folder, VECTORS, self._live)
        if self._first is not None:
            self._first.save(folder, self._live, self._vectors)
        model = relative_to(self._absolute_model(), final)
        info = IndexInfo(documents=len(self), config=self.config, model=model, files={})
        write_info(folder, info)

    def search(
        self,
        vectors: Float32[HostArray, "Q E"] | None = None,
        *,
        audio: Sequence[Clip] | None = None,
        text: Sequence[str] | None = None,
        k: int = 10,
        filter: Filter | None = None,
        task: str | None = None,
        prompt: str | None = None,
    ) -> list[list[Hit]]:
        """The k best documents of each query, best first; of equal scores the first added.

        Args:
            vectors: of queries; or
            audio: spoken queries, files or pairs of samples and sample rate; or
            text: written queries.
            k: documents a query.
            filter: called with a document's fields, its id, text and title among them; documents
                for which it is false are not found, and a query then may have fewer than k.
            task, prompt: put before each query, as of `Embedder`.

        Raises:
            MrlError: k above the number of documents; not one kind of queries; vectors of another
                width; a recording that cannot be read.
        """
        if not 1 <= k <= len(self):
            problem = f"k is {k}, and the index has {len(self)} documents"
            raise MrlError(problem, hint=f"choose 1 to {len(self)}")
        queries = query_vectors(
            lambda: self.embedder,
            self.dim,
            vectors=vectors,
            audio=audio,
            text=text,
            options={"task": task, "prompt": prompt},
            where=self.folder,
        )
        if not len(queries):
            return []
        found = self._best(_padded(queries), k, filter)[: len(queries)]
        return [
            [
                Hit(score=float(s), document=self._documents[int(row)])
                for s, row in zip(*best, strict=True)
            ]
            for best in found
        ]

    def _best(
        self, queries: HostArray, k: int, filter: Filter | None
    ) -> list[tuple[HostArray, HostArray]]:
        """Scores and rows of each query's documents."""
        if self._first is None and filter is None:
            return list(zip(*self._vectors.best(queries, k, self._live), strict=True))
        passes = Passes(self._documents, filter)
        wanted = k if self._first is None else max(k, self.config.shortlist)
        removed = int((~self._live).sum())
        count = wanted + min(removed, wanted)
        while count <= max(LONGEST_LIST, wanted) and count <= len(self._documents):
            rows = self._candidates(queries, count)
            accepted = (rows >= 0) & self._live[rows]
            accepted[accepted] = passes.of(rows[accepted])
            if (accepted.sum(axis=1) >= wanted).all():
                lists = [row[ok] for row, ok in zip(rows, accepted, strict=True)]
                return score_again(queries, lists, k, self._vectors)
            count *= 4
        allowed = self._live.copy()
        allowed[allowed] = passes.of(np.flatnonzero(allowed))
        return list(zip(*self._vectors.best(queries, k, allowed), strict=True))

    def _candidates(self, queries: HostArray, count: int) -> Int[HostArray, "Q C"]:
        if self._first is None:
            return self._vectors.best(queries, count, self._live)[1]
        return self._first.search(queries, count)

    def _rows(self) -> dict[str, int]:
        """Row by id, of the documents that are not removed."""
        if self._row_of is None:
            live = np.flatnonzero(self._live).tolist()
            self._row_of = {self._documents.id_of(row): row for row in live}
        return self._row_of

    def _absolute_model(self) -> ModelReference | None:
        model = self.model
        if model is None or model.path is None or self.folder is None:
            return model
        return dataclasses.replace(model, path=str(self.folder.resolve() / model.path))

    def _read_again(self, folder: Path) -> None:
        """Go on with the files that were just written."""
        info = read_info(folder, verify=False)
        _, self._documents, self._vectors, self._first = _parts(folder, info)
        self.folder, self.model = folder, info.model
        self._written = file_digest(folder / INDEX_FILE)
        self._live, self._row_of = np.ones(len(self._documents), bool), None


def _parts(
    folder: Path, info: IndexInfo
) -> tuple[IndexConfig, DocumentStore, StoredVectors, FirstStage | None]:
    """What a folder holds.

    Raises:
        MrlError: a file is missing or damaged, or they are not of one another.
    """
    assert info.config.dim is not None
    documents = DocumentStore.load(folder)
    coding = stored_coding(info.config.precision)
    vectors = StoredVectors.load(folder, VECTORS, coding, info.config.dim)
    if not len(documents) == len(vectors) == info.documents:
        problem = f"holds {len(documents)} documents and {len(vectors)} vectors"
        raise MrlError(f"{problem}, expected {info.documents}", where=folder)
    return info.config, documents, vectors, FirstStage.load(folder, info.config, vectors)


def _check_count(vectors: HostArray, documents: Sequence[CorpusDocument]) -> None:
    if len(documents) != len(vectors):
        problem = f"there are {len(vectors)} vectors of {len(documents)} documents"
        raise MrlError(problem, hint="pass one vector a document")


def _padded(queries: HostArray) -> HostArray:
    """The last query repeated up to a power of two, so that few shapes are compiled."""
    rows = 1 << (len(queries) - 1).bit_length()
    return np.pad(queries, ((0, rows - len(queries)), (0, 0)), mode="edge")
