"""An index in a table of LanceDB."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import optional_imports
from mrl_jax.core.json_text import parse_json
from mrl_jax.data.sets.corpus import CorpusDocument
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.documents import document_row
from mrl_jax.integrations.vector_store import MARK, Scored, StoreInfo, VectorStore

with optional_imports("mrl_jax.integrations.lancedb"):
    import lancedb
    import pyarrow as pa
    from lancedb.expr import Expr

_VECTOR = "vector"
_COLUMNS = ("id", "text", "title", "span", "fields")


class LanceStore(VectorStore):
    """A table with a row for each document: `id`, `text`, `title`, `span`, `fields`, `vector`.

    `fields` is JSON text. A filter is a condition of SQL: `title = 'Water'`.

    Args:
        connection: of `lancedb.connect(folder)`.
        table: its name; `load` makes it.
        embedder: of queries; by default the model of the index that is loaded.
    """

    def __init__(
        self, connection: lancedb.DBConnection, table: str, *, embedder: Embedder | None = None
    ):
        super().__init__(f"the table {table!r}", embedder)
        self.connection, self.name = connection, table

    def _size(self) -> int:
        table = self._table()
        return 0 if table is None else table.count_rows()

    def _table(self) -> Any:
        """The table; None where there is none."""
        try:
            return self.connection.open_table(self.name)
        except (ValueError, FileNotFoundError):
            return None

    def _found(self) -> StoreInfo | None:
        table = self._table()
        if table is None:
            return None
        schema = table.schema
        whole = {*_COLUMNS, _VECTOR} <= {*schema.names}
        kind: Any = schema.field(_VECTOR).type if whole else None
        if kind is None or not pa.types.is_fixed_size_list(kind):
            problem = f"is no table of an index, with the columns {', '.join(schema.names)}"
            raise MrlError(problem, where=self.where, hint="load the index into a new one")
        text = (schema.metadata or {}).get(MARK.encode())
        return StoreInfo.read(text, kind.list_size, self.where)

    def _make(self, info: StoreInfo) -> None:
        columns: list[Any] = [(name, pa.string()) for name in _COLUMNS]
        columns[_COLUMNS.index("span")] = ("span", pa.list_(pa.int64()))
        columns.append((_VECTOR, pa.list_(pa.float32(), info.dim)))
        schema = pa.schema(columns, metadata={MARK: info.to_json()})
        self.connection.create_table(self.name, schema=schema)

    def _write(self, documents: Sequence[CorpusDocument], vectors: HostArray) -> None:
        table = self._table()
        rows = [document_row(document) for document in documents]
        for row in rows:
            row["fields"] = json.dumps(row["fields"], ensure_ascii=False)
        numbers = pa.array(np.ascontiguousarray(vectors).ravel())
        columns = [
            pa.array([row[name] for row in rows], type=table.schema.field(name).type)
            for name in _COLUMNS
        ]
        columns.append(pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1]))
        data = pa.Table.from_arrays(columns, schema=table.schema)
        update = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        update.execute(data)

    def _nearest(self, queries: HostArray, k: int, filter: Any) -> list[list[Scored]]:
        table = self._table()
        if filter is not None and not isinstance(filter, str | Expr):
            problem = f"the filter is {type(filter).__name__}, expected a condition of SQL"
            raise MrlError(problem, where=self.where, hint="write one: \"title = 'Water'\"")
        return [self._best(table, query, k, filter) for query in queries]

    def _best(self, table: Any, query: HostArray, k: int, filter: Any) -> list[Scored]:
        request = table.search(query, vector_column_name=_VECTOR).distance_type("cosine").limit(k)
        if filter is not None:
            request = request.where(filter)
        rows = request.select([*_COLUMNS, "_distance"]).to_arrow().to_pylist()
        return [(1 - row.pop("_distance"), row) for row in rows]

    def _document(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "fields": parse_json(row["fields"])}
