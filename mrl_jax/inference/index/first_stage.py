"""The first stage of a search in two: a short list by a prefix, by signs, or by a backend.

The second stage, which scores the list by the stored vectors, is that of the index itself. As a
funnel (`search.funnel`), of vectors that stay on the disk and grow.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.inference.index.backends import BACKENDS, EXACT, Backend
from mrl_jax.inference.index.description import IndexConfig, IndexPrecision
from mrl_jax.inference.index.stored import Coding, StoredVectors
from mrl_jax.inference.search.exact import truncate

NAME = "first"
_CODINGS: dict[IndexPrecision, tuple[Coding, Coding]] = {
    "float32": ("float32", "float32"),
    "float16": ("float16", "float16"),
    "int8": ("int8", "int8"),
    "binary": ("binary", "binary"),
    "binary+int8": ("binary", "int8"),
}
"""By precision: of the first stage, and of the stored vectors."""


def stored_coding(precision: IndexPrecision) -> Coding:
    """How the vectors are coded that scores are of."""
    return _CODINGS[precision][1]


class FirstStage:
    """Candidates for each query.

    Attributes:
        config: of the index.
    """

    def __init__(self, config: IndexConfig, source: StoredVectors | Backend, *, shared: bool):
        self.config = config
        self._source = source
        self._shared = shared

    @classmethod
    def build(
        cls, config: IndexConfig, stored: StoredVectors, vectors: Float32[HostArray, "N E"]
    ) -> "FirstStage | None":
        """None where one stage is enough.

        Args:
            config: of the index.
            stored: of the vectors; signs are their own first stage.
            vectors: in float32.
        """
        if config.backend != EXACT:
            live = np.ones(len(stored), bool)
            return cls(config, _built(config, stored, live), shared=False)
        coding, full = _CODINGS[config.precision]
        if config.prefix is None and coding == full:
            return cls(config, stored, shared=True) if coding == "binary" else None
        short = StoredVectors.build(truncate(vectors, config.prefix), coding)
        return cls(config, short, shared=False)

    @classmethod
    def load(cls, folder: Path, config: IndexConfig, stored: StoredVectors) -> "FirstStage | None":
        """What `save` wrote.

        Raises:
            MrlError: a file is missing or damaged; the backend's package is absent.
        """
        if config.backend != EXACT:
            config.check_installed()
            backend = BACKENDS[config.backend].backend.load(folder / NAME)
            return cls(config, backend, shared=False)
        coding, full = _CODINGS[config.precision]
        if config.prefix is None and coding == full:
            return cls(config, stored, shared=True) if coding == "binary" else None
        short = StoredVectors.load(folder, NAME, coding, config.prefix or stored.width)
        return cls(config, short, shared=False)

    def search(self, queries: Float32[HostArray, "Q E"], count: int) -> Int[HostArray, "Q C"]:
        """Rows of about the `count` best; -1 where there are fewer."""
        return self._source.search(truncate(queries, self.config.prefix), count)

    def add(self, vectors: Float32[HostArray, "N E"]) -> None:
        """Append vectors, which have been added to the stored ones already."""
        if not self._shared:
            self._source.add(truncate(vectors, self.config.prefix))

    def save(self, folder: Path, live: Bool[HostArray, " N"], stored: StoredVectors) -> None:
        """Write what `load` reads, of those rows that are `live`.

        A backend that has other rows as well is built anew, of the stored vectors.
        """
        if self._shared:
            return
        if isinstance(self._source, StoredVectors):
            self._source.save(folder, NAME, live)
            return
        backend = self._source if live.all() else _built(self.config, stored, live)
        backend.save(folder / NAME)


def _built(config: IndexConfig, stored: StoredVectors, live: HostArray) -> Backend:
    vectors = stored.decoded(live)
    if config.prefix is not None or config.precision != "float32":
        vectors = truncate(vectors, config.prefix)
    return BACKENDS[config.backend].backend.build(vectors)
