"""What finds candidates in an index: a library of approximate search, behind one interface.

A backend gives rows of a short list only. The index scores them again by the vectors that it has
stored, so the backend decides which documents are considered, never their scores or order.

References:
    faiss (Douze et al., arXiv:2401.08281): flat, HNSW (Malkov and Yashunin, arXiv:1603.09320),
    IVF-PQ (Jégou et al., TPAMI 2011). usearch: HNSW.
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.extras import require
from mrl_jax.inference.index.documents import BUILD_AGAIN

LINKS = 32
"""Neighbours of a node of faiss's HNSW graph."""
EFFORT = 128
"""Candidates that a walk in a graph keeps at least, while it is built and searched."""
PROBES = 32
"""Lists of IVF that a query reads."""
PER_LIST = 39
"""Vectors that faiss wants to train each centroid on."""


@runtime_checkable
class Backend(Protocol):
    """Candidates among vectors that are numbered in the order in which they came."""

    @classmethod
    def build(cls, vectors: Float32[HostArray, "N E"]) -> "Backend":
        """An index of unit vectors, of which it does not keep the array."""
        ...

    def add(self, vectors: Float32[HostArray, "N E"]) -> None:
        """Append vectors."""
        ...

    def search(self, queries: Float32[HostArray, "Q E"], count: int) -> Int[HostArray, "Q C"]:
        """Rows of about the `count` nearest vectors of each query; -1 where it finds no more."""
        ...

    def save(self, path: Path) -> None:
        """Write all to one file."""
        ...

    @classmethod
    def load(cls, path: Path) -> "Backend":
        """What `save` wrote.

        Raises:
            MrlError: no such file, or a damaged one.
        """
        ...


class FaissFlat:
    """Every inner product: faiss's `IndexFlatIP`."""

    def __init__(self, index: Any):
        self._index = index

    @classmethod
    def build(cls, vectors: Float32[HostArray, "N E"]) -> "FaissFlat":
        made = cls(cls._empty(*vectors.shape))
        vectors = np.ascontiguousarray(vectors)
        if not made._index.is_trained:
            # One vector alone is fewer than the two codes of a bit.
            made._index.train(vectors if len(vectors) > 1 else vectors.repeat(2, axis=0))
        made.add(vectors)
        return made

    @classmethod
    def load(cls, path: Path) -> "FaissFlat":
        try:
            return cls(_faiss().read_index(str(path)))
        except RuntimeError as error:
            raise _damaged(path, error) from error

    def add(self, vectors: Float32[HostArray, "N E"]) -> None:
        self._index.add(np.ascontiguousarray(vectors))

    def search(self, queries: Float32[HostArray, "Q E"], count: int) -> Int[HostArray, "Q C"]:
        count = min(count, self._index.ntotal)
        return self._index.search(queries, count, params=self._parameters(count))[1]

    def save(self, path: Path) -> None:
        try:
            _faiss().write_index(self._index, str(path))
        except RuntimeError as error:
            raise OSError(first_line(error)) from error

    @staticmethod
    def _empty(rows: int, width: int) -> Any:
        del rows
        return _faiss().IndexFlatIP(width)

    def _parameters(self, count: int) -> Any:
        """How thoroughly a query for so many is searched; None where there is no choice."""
        del count


class FaissHnsw(FaissFlat):
    """A graph of neighbours: faiss's `IndexHNSWFlat`."""

    @staticmethod
    def _empty(rows: int, width: int) -> Any:
        del rows
        faiss = _faiss()
        index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EFFORT
        return index

    def _parameters(self, count: int) -> Any:
        return _faiss().SearchParametersHNSW(efSearch=max(EFFORT, count))


class FaissIvfPq(FaissFlat):
    """Lists around centroids, of vectors in few bytes: faiss's `IndexIVFPQ`."""

    @staticmethod
    def _empty(rows: int, width: int) -> Any:
        faiss = _faiss()
        lists = max(1, min(rows // PER_LIST, round(4 * rows**0.5)))
        # About two coordinates a byte, and no more codes than there are vectors to fit them on.
        parts = next(n for n in range(max(1, width // 2), 0, -1) if width % n == 0)
        bits = min(8, max(1, (rows // PER_LIST).bit_length() - 1))
        coarse = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFPQ(coarse, width, lists, parts, bits, faiss.METRIC_INNER_PRODUCT)
        for fit in (index.cp, index.pq.cp):
            fit.min_points_per_centroid = 1  # A warning on standard error otherwise.
            fit.max_points_per_centroid = 2 * PER_LIST
        return index

    def _parameters(self, count: int) -> Any:
        # Lists enough for the count, where that is a large part of all.
        needed = -(-4 * count * self._index.nlist // max(1, self._index.ntotal))
        return _faiss().SearchParametersIVF(nprobe=min(self._index.nlist, max(PROBES, needed)))


class Usearch:
    """A graph of neighbours: usearch's `Index`."""

    def __init__(self, index: Any):
        self._index = index

    @classmethod
    def build(cls, vectors: Float32[HostArray, "N E"]) -> "Usearch":
        from usearch.index import Index

        width = vectors.shape[1]
        made = cls(Index(ndim=width, metric="ip", dtype="f32", expansion_search=EFFORT))
        made.add(vectors)
        return made

    @classmethod
    def load(cls, path: Path) -> "Usearch":
        from usearch.index import Index

        try:
            index = Index.restore(str(path))
        except (RuntimeError, ValueError) as error:
            raise _damaged(path, error) from error
        if index is None:
            raise _damaged(path, FileNotFoundError("it is missing, or no index"))
        index.expansion_search = EFFORT
        return cls(index)

    def add(self, vectors: Float32[HostArray, "N E"]) -> None:
        keys = np.arange(len(self._index), len(self._index) + len(vectors), dtype=np.uint64)
        self._index.add(keys, np.ascontiguousarray(vectors))

    def search(self, queries: Float32[HostArray, "Q E"], count: int) -> Int[HostArray, "Q C"]:
        matches = self._index.search(queries, min(count, len(self._index)))
        keys = np.atleast_2d(np.asarray(matches.keys)).astype(np.int64)
        found = np.atleast_1d(getattr(matches, "counts", keys.shape[1]))
        return np.where(np.arange(keys.shape[1]) < found[:, None], keys, -1)

    def save(self, path: Path) -> None:
        try:
            self._index.save(str(path))
        except RuntimeError as error:
            raise OSError(first_line(error)) from error


@dataclasses.dataclass(frozen=True)
class BackendKind:
    """A backend, and the package that it takes."""

    package: str
    backend: type[Backend]

    def check(self, name: str) -> None:
        """Raises an `MrlError` where its package is not installed."""
        require(self.package, by=f"the backend {name}", extra="index")


EXACT = "exact"
"""No backend: every stored vector is scored."""
BACKENDS = {
    "faiss-flat": BackendKind("faiss", FaissFlat),
    "faiss-hnsw": BackendKind("faiss", FaissHnsw),
    "faiss-ivfpq": BackendKind("faiss", FaissIvfPq),
    "usearch": BackendKind("usearch", Usearch),
}


def _faiss() -> Any:
    """The package, whose stubs lack most of it."""
    return importlib.import_module("faiss")


def _damaged(path: Path, error: Exception) -> MrlError:
    problem = f"cannot be read as an index of vectors ({first_line(error)})"
    return MrlError(problem, where=path, hint=BUILD_AGAIN)
