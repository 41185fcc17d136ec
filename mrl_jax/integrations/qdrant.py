"""An index in a collection of Qdrant, on a server or in memory."""

import uuid
from collections.abc import Sequence
from typing import Any

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import optional_imports
from mrl_jax.data.sets.corpus import CorpusDocument
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.documents import document_row
from mrl_jax.integrations.vector_store import MARK, Scored, StoreInfo, VectorStore

with optional_imports("mrl_jax.integrations.qdrant"):
    from qdrant_client import QdrantClient, models

_IDS = uuid.UUID("6f7c1f2e-3f0b-5d0a-9f53-2a0a1d0c7b44")
"""Namespace of the points' ids, which Qdrant wants to be UUIDs."""
NUMBERS = 1 << 19
"""Coordinates in one request: some 10 MB as JSON, where servers take 32 MB with the documents."""


class QdrantStore(VectorStore):
    """A collection with a point for each document: its vector, and as payload its row.

    The payload has `id`, `text`, `title`, `span` and `fields`; a filter names a field as
    `fields.language`.

    Args:
        client: of a server, a folder, or `QdrantClient(":memory:")`.
        collection: its name; `load` makes it.
        embedder: of queries; by default the model of the index that is loaded.
    """

    def __init__(self, client: QdrantClient, collection: str, *, embedder: Embedder | None = None):
        super().__init__(f"the collection {collection!r}", embedder)
        self.client, self.collection = client, collection

    def _size(self) -> int:
        if not self.client.collection_exists(self.collection):
            return 0
        return self.client.count(self.collection).count

    def _found(self) -> StoreInfo | None:
        if not self.client.collection_exists(self.collection):
            return None
        config = self.client.get_collection(self.collection).config
        vectors = config.params.vectors
        if not isinstance(vectors, models.VectorParams):
            problem = "has several vectors for each point, or none, expected one"
            raise MrlError(problem, where=self.where, hint="load the index into a new one")
        if vectors.distance != models.Distance.COSINE:
            problem = f"compares by {vectors.distance.value}, expected Cosine"
            raise MrlError(problem, where=self.where, hint="load the index into a new one")
        return StoreInfo.read((config.metadata or {}).get(MARK), vectors.size, self.where)

    def _make(self, info: StoreInfo) -> None:
        params = models.VectorParams(size=info.dim, distance=models.Distance.COSINE)
        metadata = {MARK: info.to_json()}
        self.client.create_collection(self.collection, vectors_config=params, metadata=metadata)

    def _write(self, documents: Sequence[CorpusDocument], vectors: HostArray) -> None:
        rows = max(NUMBERS // vectors.shape[1], 1)
        for start in range(0, len(documents), rows):
            some = documents[start : start + rows]
            points = models.Batch(
                ids=[str(uuid.uuid5(_IDS, document.id)) for document in some],
                vectors=vectors[start : start + rows].tolist(),
                payloads=[document_row(document) for document in some],
            )
            self.client.upsert(self.collection, points=points, wait=True)

    def _nearest(self, queries: HostArray, k: int, filter: Any) -> list[list[Scored]]:
        if filter is not None and not isinstance(filter, models.Filter):
            problem = f"the filter is {type(filter).__name__}, expected a `models.Filter`"
            raise MrlError(problem, where=self.where, hint="make one, see qdrant_client.models")
        requests = [
            models.QueryRequest(query=query, limit=k, with_payload=True, filter=filter)
            for query in queries.tolist()
        ]
        answers = self.client.query_batch_points(self.collection, requests=requests)
        return [[(point.score, point.payload or {}) for point in one.points] for one in answers]
