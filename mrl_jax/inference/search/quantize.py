"""Documents in fewer bits: how they are stored, and how they are searched.

Queries stay in float32: there are few of them, and only documents take room.

int8   One linear scale a coordinate, from the least to the greatest value that the corpus has
       there. Coordinates of an embedding differ in mean and spread, so a scale for each of them
       uses all 256 steps; and it adds no byte to a document, as a scale for each document would.
binary The sign of each coordinate. The Hamming distance makes a short list, which is scored
       again with float32 queries, against the signs or against int8 codes beside them.

References:
    The scalar and binary quantisation of sentence-transformers' "Embedding Quantization".
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int, Shaped

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.search.config import Precision
from mrl_jax.inference.search.exact import exact_scores, rough_search, search

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "binary", "binary+int8")
CHUNK = 65_536
"""Documents that are coded or decoded at once; the result does not depend on it."""
_IN_CACHE = 2048
"""Documents whose vectors stay in the cache while they are decoded."""
LEVELS = 255


@dataclasses.dataclass(frozen=True)
class Float32Store:
    """Vectors as they are."""

    vectors: Float32[HostArray, "N E"]

    @property
    def bytes_per_document(self) -> int:
        return 4 * self.vectors.shape[1]

    @property
    def scan_flops(self) -> int:
        """Operations that a scan spends on one document."""
        return 2 * self.vectors.shape[1]

    def scan(self, queries: Float32[HostArray, "Q E"], k: int) -> Int[HostArray, "Q k"]:
        """The k best of all documents, best first, the lowest index first of equals."""
        return search(queries, self.vectors, k)[1]

    def shortlist(self, queries: Float32[HostArray, "Q E"], k: int) -> Int[HostArray, "Q k"]:
        """`scan` to within the device's rounding: for a short list that is scored again."""
        return rough_search(queries, self.vectors, k)[1]

    def score(
        self, queries: Float32[HostArray, "Q E"], places: Int[HostArray, "Q S"]
    ) -> Float32[HostArray, "Q S"]:
        """Scores of some documents a query."""
        return _score_rows(queries, self.vectors[places])


@dataclasses.dataclass(frozen=True)
class Int8Store:
    """A whole number of steps above the least value of each coordinate.

    Attributes:
        codes: steps, less 128.
        low: the least value of each coordinate.
        step: how far apart two codes are.
        chunk: documents that are decoded at once.
    """

    codes: Shaped[HostArray, "N E"]
    low: Float32[HostArray, " E"]
    step: Float32[HostArray, " E"]
    chunk: int = CHUNK

    @property
    def bytes_per_document(self) -> int:
        return self.codes.shape[1]

    @property
    def scan_flops(self) -> int:
        return 2 * self.codes.shape[1]

    def decode(self) -> Float32[HostArray, "N E"]:
        """The vectors, each coordinate off by at most half a step."""
        vectors = np.empty(self.codes.shape, np.float32)
        for start in range(0, len(vectors), _IN_CACHE):
            part = vectors[start : start + _IN_CACHE]
            np.add(self.codes[start : start + _IN_CACHE], np.float32(128), out=part)
            part *= self.step
            part += self.low
        return vectors

    def scan(self, queries: Float32[HostArray, "Q E"], k: int) -> Int[HostArray, "Q k"]:
        return self._best(queries, k, search)

    def shortlist(self, queries: Float32[HostArray, "Q E"], k: int) -> Int[HostArray, "Q k"]:
        return self._best(queries, k, rough_search)

    def _best(
        self, queries: HostArray, k: int, find: Callable[..., tuple[HostArray, HostArray]]
    ) -> HostArray:
        # The least values add the same to all scores of a query: they do not change its order.
        scaled, size = queries * self.step, len(self.codes)
        k = min(k, size)
        scores, places = (np.zeros((len(queries), 0), t) for t in (np.float32, np.int64))
        for start in range(0, size, self.chunk):
            part = self.codes[start : start + self.chunk].astype(np.float32)
            new_scores, new_places = find(scaled, part, k)
            scores = np.concatenate((scores, new_scores), axis=1)
            places = np.concatenate((places, new_places + start), axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, places = (np.take_along_axis(x, order, axis=1) for x in (scores, places))
        return places

    def score(
        self, queries: Float32[HostArray, "Q E"], places: Int[HostArray, "Q S"]
    ) -> Float32[HostArray, "Q S"]:
        return _score_rows(queries * self.step, self.codes[places].astype(np.float32))


@dataclasses.dataclass(frozen=True)
class BinaryStore:
    """Signs, eight to a byte; 1 is above zero.

    Attributes:
        bits: as `np.packbits` packs them; the last byte is filled with zeros.
        width: of the vectors.
    """

    bits: Shaped[HostArray, "N bytes"]
    width: int

    @property
    def bytes_per_document(self) -> int:
        return self.bits.shape[1]

    @property
    def scan_flops(self) -> int:
        # Exclusive or, count and add of a word of 64 bits.
        return 3 * -(-self.width // 64)

    def distances(self, query: Float32[HostArray, " E"]) -> Int[HostArray, " N"]:
        """Hamming distance of every document."""
        word = next(f"u{size}" for size in (8, 4, 2, 1) if self.bits.shape[1] % size == 0)
        signs, words = np.packbits(query > 0).view(word), self.bits.view(word)
        total = np.zeros(len(words), np.int32)
        for column, sign in zip(words.T, signs, strict=True):
            total += np.bitwise_count(column ^ sign)
        return total

    def scan(self, queries: Float32[HostArray, "Q E"], k: int) -> Int[HostArray, "Q k"]:
        k = min(k, len(self.bits))
        places = np.empty((len(queries), k), np.int64)
        for row, query in enumerate(queries):
            places[row] = _lowest(self.distances(query), k)
        return places

    def shortlist(self, queries: Float32[HostArray, "Q E"], k: int) -> Int[HostArray, "Q k"]:
        return self.scan(queries, k)

    def score(
        self, queries: Float32[HostArray, "Q E"], places: Int[HostArray, "Q S"]
    ) -> Float32[HostArray, "Q S"]:
        signs = np.unpackbits(self.bits[places], axis=-1, count=self.width).astype(np.float32)
        return _score_rows(queries, 2 * signs - 1)


Store = Float32Store | Int8Store | BinaryStore
"""Documents as they are kept; each kind has the methods that `Float32Store` describes."""


@checked
def to_int8(vectors: Float32[HostArray, "N E"], *, chunk: int = CHUNK) -> Int8Store:
    """Vectors as int8, on scales that are fitted on them.

    Raises:
        MrlError: no vectors, or one that is not finite.
    """
    check_finite(vectors)
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    step = (high - low) / np.float32(LEVELS)
    return Int8Store(int8_codes(vectors, low, step, chunk=chunk), low, step, chunk)


@checked
def int8_codes(
    vectors: Float32[HostArray, "N E"],
    low: Float32[HostArray, " E"],
    step: Float32[HostArray, " E"],
    *,
    chunk: int = CHUNK,
) -> Shaped[HostArray, "N E"]:
    """Vectors as int8 on given scales; what lies beyond a scale gets its end."""
    divisor = np.where(step > 0, step, np.float32(1))
    codes = np.empty(vectors.shape, np.int8)
    for start in range(0, len(vectors), chunk):
        steps = np.rint((vectors[start : start + chunk] - low) / divisor)
        codes[start : start + chunk] = np.clip(steps, 0, LEVELS) - 128
    return codes


@checked
def to_binary(vectors: Float32[HostArray, "N E"]) -> BinaryStore:
    """Signs of vectors.

    Raises:
        MrlError: no vectors, or one that is not finite.
    """
    check_finite(vectors)
    return BinaryStore(np.packbits(vectors > 0, axis=1), vectors.shape[1])


@checked
def stores(
    vectors: Float32[HostArray, "N E"], precision: Precision, *, chunk: int = CHUNK
) -> tuple[Store, Store]:
    """The store that is scanned, and the one that scores the short list again, often the same."""
    if precision == "fp32":
        check_finite(vectors)
        only = Float32Store(vectors)
        return only, only
    if precision == "int8":
        coded = to_int8(vectors, chunk=chunk)
        return coded, coded
    signs = to_binary(vectors)
    return signs, to_int8(vectors, chunk=chunk) if precision == "binary+int8" else signs


def _lowest(values: HostArray, k: int) -> HostArray:
    """Places of the k lowest values, in order, the first of equals first."""
    last = np.partition(values, k - 1)[k - 1]
    below, equal = np.flatnonzero(values < last), np.flatnonzero(values == last)
    below = below[np.argsort(values[below], kind="stable")]
    return np.concatenate((below, equal))[:k]


def _score_rows(queries: HostArray, documents: HostArray) -> HostArray:
    """Scores [Q, S] of each query with the documents [Q, S, E] of its own."""
    return exact_scores(np.broadcast_to(queries[:, None], documents.shape), documents)


def check_finite(vectors: HostArray) -> None:
    """Raises an `MrlError` where there are no vectors, or one is not finite."""
    if not len(vectors):
        raise MrlError("there is nothing to quantise", hint="pass at least one vector")
    for start in range(0, len(vectors), CHUNK):
        bad = ~np.isfinite(vectors[start : start + CHUNK]).all(axis=1)
        if bad.any():
            raise MrlError(
                f"the vector of document {start + int(np.argmax(bad))} is not finite",
                hint="check the model's weights and the input: NaN and infinity have no code",
            )
