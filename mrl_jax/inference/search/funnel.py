"""Funnel search: a cheap scan of every document, and an exact scoring of a short list.

The scan uses a short prefix, or fewer bits, or both. Where the short list is the whole corpus,
the result is that of the second stage alone.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.search.config import Precision
from mrl_jax.inference.search.exact import search, truncate
from mrl_jax.inference.search.quantize import BinaryStore, Store, stores


@dataclasses.dataclass(frozen=True)
class Funnel:
    """Documents stored for a search in one or two stages.

    Attributes:
        first: scanned whole.
        prefix: coordinates of a vector in it.
        second: scores the short list; None for a search in one stage.
        width: coordinates of a vector in it.
        shortlist: documents that the second scores.
    """

    first: Store
    prefix: int
    second: Store | None
    width: int
    shortlist: int

    @property
    def bytes_per_document(self) -> int:
        """Of both stores, where they are two."""
        if self.second is None or self.second is self.first:
            return self.first.bytes_per_document
        return self.first.bytes_per_document + self.second.bytes_per_document

    def flops(self, documents: int) -> int:
        """Operations a query among so many documents, sorting aside.

        Two an entry and document scored in float32 or int8, three a 64-bit word of a Hamming
        distance; `first` over all documents and `second` over the short list.
        """
        again = min(self.shortlist, documents) * 2 * self.width if self.second else 0
        return documents * self.first.scan_flops + again

    def search(self, queries: Float32[HostArray, "Q E"], k: int) -> Int[HostArray, "Q k"]:
        """The k best documents of each query, best first, the lowest index first of equals."""
        prefixes = truncate(queries, self.prefix)
        if self.second is None:
            return self.first.scan(prefixes, k)
        # In the order of the corpus, which a stable sort keeps for equal scores.
        places = np.sort(self.first.shortlist(prefixes, max(k, self.shortlist)), axis=1)
        scores = self.second.score(queries, places)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(places, order, axis=1)


@checked
def make_funnel(
    documents: Float32[HostArray, "N E"],
    precision: Precision = "fp32",
    *,
    prefix: int | None = None,
    shortlist: int = 100,
) -> Funnel:
    """Store documents.

    Args:
        documents: unit vectors.
        precision: of all that is stored.
        prefix: coordinates of the first stage; all by default, and then only signs have a
            second stage.
        shortlist: documents that the second stage scores.

    Raises:
        MrlError: a prefix that is not shorter than the vectors; a vector that is not finite.
    """
    width = documents.shape[1]
    if prefix is not None and not 1 <= prefix < width:
        raise MrlError(
            f"the prefix of {prefix} coordinates is not shorter than the whole vector of {width}",
            hint=f"choose 1 to {width - 1}",
        )
    if shortlist < 1:
        raise MrlError(f"the short list is {shortlist}, expected 1 or more documents")
    first, second = stores(documents, precision)
    if prefix is not None:
        scanned = "binary" if precision == "binary+int8" else precision
        first, _ = stores(truncate(documents, prefix), scanned)
    elif not isinstance(first, BinaryStore):
        return Funnel(first, width, None, width, shortlist)
    return Funnel(first, prefix or width, second, width, shortlist)


@checked
def recall_of(results: Int[HostArray, "Q k"], exact: Int[HostArray, "Q k"]) -> float:
    """Fraction of the exact results that are among the results, mean over queries."""
    return float((exact[:, :, None] == results[:, None, :]).any(axis=2).mean())


@checked
def exact_places(
    queries: Float32[HostArray, "Q E"], documents: Float32[HostArray, "N E"], k: int
) -> Int[HostArray, "Q k"]:
    """Results of exact search at full width: the reference for every cheaper search."""
    return search(queries, documents, k)[1]
