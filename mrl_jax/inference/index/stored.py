"""Vectors of an index as they are stored, and the exact search of them.

Arrays stay on the disk, and are decoded to float32 chunk by chunk. A score is the inner product of
a query with a decoded vector, summed in float64: it depends on the two alone, not on how they were
found. int8 is exact to half a step of its scale, binary is the signs at unit length.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Shaped

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.npy import open_npy
from mrl_jax.inference.index.documents import BUILD_AGAIN
from mrl_jax.inference.search.exact import exact_scores, rough_search, search
from mrl_jax.inference.search.quantize import (
    BinaryStore,
    Int8Store,
    check_finite,
    int8_codes,
    to_binary,
    to_int8,
)

Coding = Literal["float32", "float16", "int8", "binary"]
CHUNK = 131_072
"""Vectors that are decoded at once."""
_DTYPES = {"float32": "float32", "float16": "float16", "int8": "int8", "binary": "uint8"}
Find = Callable[[HostArray, HostArray, int], tuple[HostArray, HostArray]]


class StoredVectors:
    """Vectors [N, E] in one coding: those of a file, and behind them those added in memory.

    Attributes:
        coding: of each number.
        width: E.
    """

    def __init__(
        self,
        coding: Coding,
        width: int,
        parts: Sequence[HostArray],
        scale: Float32[HostArray, "2 E"] | None = None,
    ):
        self.coding, self.width = coding, width
        self._parts = list(parts)
        self._scale = scale

    @classmethod
    def build(cls, vectors: Float32[HostArray, "N E"], coding: Coding) -> "StoredVectors":
        """Code vectors; scales of int8 are fitted on them.

        Raises:
            MrlError: there are none, or one is not finite.
        """
        check_finite(vectors)
        width, scale = vectors.shape[1], None
        if coding == "int8":
            coded = to_int8(vectors)
            return cls(coding, width, [coded.codes], np.stack((coded.low, coded.step)))
        store = cls(coding, width, [], scale)
        store.add(vectors)
        return store

    @classmethod
    def load(cls, folder: Path, name: str, coding: Coding, width: int) -> "StoredVectors":
        """Those that `save` wrote, left on the disk.

        Raises:
            MrlError: a file is missing, damaged, or of another shape.
        """
        path = folder / f"{name}.npy"
        codes = open_npy(path, hint=BUILD_AGAIN)
        columns = -(-width // 8) if coding == "binary" else width
        scale, place = None, folder / f"{name}-scale.npy"
        if codes.dtype != _DTYPES[coding] or codes.ndim != 2 or codes.shape[1] != columns:
            problem = f"holds {codes.dtype} of shape {codes.shape}"
            expected = f"expected {_DTYPES[coding]} of {columns} columns"
            raise MrlError(f"{problem}, {expected}", where=path, hint=BUILD_AGAIN)
        if coding == "int8":
            scale = open_npy(place, hint=BUILD_AGAIN, in_memory=True)
            if scale.dtype != np.float32 or scale.shape != (2, width):
                problem = f"holds {scale.dtype} of shape {scale.shape}, expected (2, {width})"
                raise MrlError(problem, where=place, hint=BUILD_AGAIN)
        return cls(coding, width, [codes], scale)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that a vector takes."""
        return self._parts[0].shape[1] * self._parts[0].dtype.itemsize

    def add(self, vectors: Float32[HostArray, "N E"]) -> None:
        """Append vectors in memory; int8 keeps its scales, and clips what lies beyond them."""
        check_finite(vectors)
        codes = self._encode(vectors)
        if len(self._parts) > 1:  # All that was added is one array.
            codes = np.concatenate((self._parts.pop(), codes))
        self._parts.append(codes)

    def save(self, folder: Path, name: str, live: Bool[HostArray, " N"]) -> None:
        """Write those vectors that are `live`, in their order."""
        columns = self._parts[0].shape[1]
        shape = (int(live.sum()), columns)
        path, dtype = folder / f"{name}.npy", np.dtype(_DTYPES[self.coding])
        out = np.lib.format.open_memmap(path, "w+", dtype, shape)
        end = 0
        for start, codes in self._chunks():
            kept = codes[live[start : start + len(codes)]]
            out[end : end + len(kept)] = kept
            end += len(kept)
        out.flush()
        if self._scale is not None:
            np.save(folder / f"{name}-scale.npy", self._scale, allow_pickle=False)

    def take(self, rows: Int[HostArray, " R"]) -> Float32[HostArray, "R E"]:
        """Some of the vectors, decoded."""
        codes = np.empty((len(rows), self._parts[0].shape[1]), self._parts[0].dtype)
        start = 0
        for part in self._parts:
            inside = (rows >= start) & (rows < start + len(part))
            codes[inside] = part[rows[inside] - start]
            start += len(part)
        return self._decode(codes)

    def decoded(self, live: Bool[HostArray, " N"]) -> Float32[HostArray, "R E"]:
        """All vectors that are `live`, decoded."""
        if len(self._parts) == 1 and self.coding == "float32" and live.all():
            return self._parts[0]
        return self.take(np.flatnonzero(live))

    def search(self, queries: Float32[HostArray, "Q E"], count: int) -> Int[HostArray, "Q C"]:
        """Rows of a short list, to be scored again: near the best, best first.

        Of signs by their Hamming distance, of others by score to within the device's rounding.
        """
        if self.coding != "binary":
            everything = np.ones(len(self), bool)
            return self._scan(queries, count, everything, rough_search)[1]
        start, lists = 0, []
        for part in self._parts:
            store = BinaryStore(part, self.width)
            lists.append(store.shortlist(queries, count) + start)
            start += len(part)
        return np.concatenate(lists, axis=1)

    def best(
        self, queries: Float32[HostArray, "Q E"], k: int, allowed: Bool[HostArray, " N"]
    ) -> tuple[Float32[HostArray, "Q k"], Int[HostArray, "Q k"]]:
        """Scores and rows of the k best of the vectors that are allowed.

        Best first, of equal scores the lowest row first; fewer where fewer are allowed.
        """
        return self._scan(queries, k, allowed, search)

    def _scan(
        self, queries: HostArray, k: int, allowed: HostArray, find: Find
    ) -> tuple[HostArray, HostArray]:
        scores = np.zeros((len(queries), 0), np.float32)
        rows = np.zeros((len(queries), 0), np.int64)
        whole = len(self._parts) == 1 and self.coding == "float32" and allowed.all()
        for start, codes in self._chunks(size=len(self) if whole else CHUNK):
            inside = allowed[start : start + len(codes)]
            if not inside.any():
                continue
            some = codes if inside.all() else codes[inside]
            found_scores, places = find(queries, self._decode(some), k)
            places = places if inside.all() else np.flatnonzero(inside)[places]
            scores = np.concatenate((scores, found_scores), axis=1)
            rows = np.concatenate((rows, places + start), axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, rows = (np.take_along_axis(x, order, axis=1) for x in (scores, rows))
        return scores, rows

    def _chunks(self, size: int = CHUNK) -> Iterator[tuple[int, HostArray]]:
        """Row of the first, and the codes of some vectors after the other."""
        before = 0
        for part in self._parts:
            for start in range(0, len(part), size):
                yield before + start, part[start : start + size]
            before += len(part)

    def _encode(self, vectors: HostArray) -> HostArray:
        match self.coding:
            case "int8":
                assert self._scale is not None
                return int8_codes(vectors, *self._scale)
            case "binary":
                return to_binary(vectors).bits
            case _:
                return vectors.astype(_DTYPES[self.coding], copy=False)

    def _decode(self, codes: Shaped[HostArray, "R C"]) -> Float32[HostArray, "R E"]:
        match self.coding:
            case "int8":
                assert self._scale is not None
                return Int8Store(codes, *self._scale).decode()
            case "binary":
                signs = np.unpackbits(codes, axis=1, count=self.width).astype(np.float32)
                return (2 * signs - 1) / np.sqrt(np.float32(self.width))
            case _:
                return np.asarray(codes, np.float32)


def score_again(
    queries: Float32[HostArray, "Q E"],
    lists: Sequence[Int[HostArray, " _"]],
    k: int,
    vectors: StoredVectors,
) -> list[tuple[Float32[HostArray, " _"], Int[HostArray, " _"]]]:
    """Scores and rows of the k best of each query's own list, in the order of `best`."""
    found = []
    for query, rows in zip(queries, lists, strict=True):
        rows = np.unique(rows)
        some = vectors.take(rows)
        scores = exact_scores(np.broadcast_to(query, some.shape), some)
        order = np.argsort(-scores, kind="stable")[:k]
        found.append((scores[order], rows[order]))
    return found
