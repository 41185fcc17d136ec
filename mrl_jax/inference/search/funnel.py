"""Funnel search: a cheap look at every document, and a dear one at a short list.

The cheap look is a short prefix, or fewer bits, or both. Where the short list is the whole
corpus, what is found is what the dear look finds alone.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.search.config import Precision
from mrl_jax.inference.search.exact import search, truncate
from mrl_jax.inference.search.quantize import BinaryStore, Store, stores

SHORTLIST = 100
"""Documents that are looked at again."""


@dataclasses.dataclass(frozen=True)
class Funnel:
    """Documents stored for one or two looks.

    Attributes:
        first: scanned whole.
        prefix: coordinates that it holds.
        second: scores the short list; None where one look is all.
        width: coordinates that it holds.
        shortlist: documents that the first hands to the second.
    """

    first: Store
    prefix: int
    second: Store | None
    width: int
    shortlist: int

    @property
    def bytes_per_document(self) -> int:
        """Of all that is kept, a prefix kept apart for its scan included."""
        beside = self.second is not None and self.second is not self.first
        second = self.second.bytes_per_document if self.second and beside else 0
        return self.first.bytes_per_document + second

    def flops(self, documents: int) -> int:
        """Operations a query among so many documents, sorting aside.

        Two an entry and document scored in float32 or int8, three a 64-bit word of a Hamming
        distance; `first` over all documents and `second` over the short list.
        """
        again = min(self.shortlist, documents) * self.second.score_flops if self.second else 0
        return documents * self.first.scan_flops + again

    def search(self, queries: Float32[HostArray, "Q E"], k: int) -> Int[HostArray, "Q k"]:
        """The k best documents of each query, best first, the lowest index first of equals.

        Args:
            queries: of the width of the second store.
            k: documents a query.
        """
        asked = truncate(queries, self.prefix)
        if self.second is None:
            return self.first.scan(asked, k)
        # In the corpus' own order, so that a stable sort leaves equals in it.
        places = np.sort(self.first.shortlist(asked, max(k, self.shortlist)), axis=1)
        scores = self.second.score(queries, places)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(places, order, axis=1)


def make_funnel(
    documents: Float32[HostArray, "N E"],
    precision: Precision = "fp32",
    *,
    prefix: int | None = None,
    shortlist: int = SHORTLIST,
) -> Funnel:
    """Store documents.

    Args:
        documents: unit vectors.
        precision: of all that is stored.
        prefix: coordinates of the first look; all by default, and then only signs are
            looked at twice.
        shortlist: documents that are looked at again.

    Raises:
        MrlError: a prefix that is not shorter than the vectors; a vector that is not finite.
    """
    width = documents.shape[1]
    if prefix is not None and not 1 <= prefix < width:
        raise MrlError(
            f"the first look at {prefix} coordinates is not shorter than the {width} of the second",
            hint=f"choose 1 to {width - 1}",
        )
    if shortlist < 1:
        raise MrlError(f"the short list is {shortlist}, expected 1 or more documents")
    first, second = stores(documents, precision)
    if prefix is not None:
        first, _ = stores(truncate(documents, prefix), _scanned(precision))
    elif not isinstance(first, BinaryStore):
        return Funnel(first, width, None, width, shortlist)
    return Funnel(first, prefix or width, second, width, shortlist)


def funnel_search(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    k: int,
    *,
    prefix: int,
    shortlist: int = SHORTLIST,
) -> Int[HostArray, "Q k"]:
    """The k best of the short list that a prefix finds, in float32."""
    return make_funnel(documents, prefix=prefix, shortlist=shortlist).search(queries, k)


def recall_of(found: Int[HostArray, "Q k"], exact: Int[HostArray, "Q k"]) -> float:
    """Share of the exact results that were found, mean over queries."""
    return float((exact[:, :, None] == found[:, None, :]).any(axis=2).mean())


def exact_places(
    queries: Float32[HostArray, "Q E"], documents: Float32[HostArray, "N E"], k: int
) -> Int[HostArray, "Q k"]:
    """What full width finds in float32: the measure of every cheaper search."""
    return search(queries, documents, k)[1]


def _scanned(precision: Precision) -> Precision:
    return "binary" if precision == "binary+int8" else precision
