"""Arrow batches as pandas frames for Great Expectations: exact types, bounded rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa

from tabvae_core.tables import TableSource

__all__ = ["CHUNK_ROWS", "chunks_of", "frame_of"]

CHUNK_ROWS = 250_000
"""Rows of a batch of a table that is too large for one: the memory that validation takes."""


class _Frame(pd.DataFrame):
    """A frame that Great Expectations does not fingerprint.

    It hashes every cell of frames below 1 GB as a Python object, 15 s for 250,000 rows of 15 columns, for a
    number that nobody reads: our tables carry their sha256 in the manifest. It asks this method whether to.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return _Frame

    def memory_usage(self, index: bool = True, deep: bool = False) -> pd.Series[Any]:
        return pd.Series([2**62])


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Wrap Arrow's own columns in a frame, so that integers with nulls and 2**53 + 1 stay what they are."""
    columns = {
        name: pd.arrays.ArrowExtensionArray(_storage(table.column(i))) for i, name in enumerate(table.schema.names)
    }
    return _Frame(columns, index=pd.RangeIndex(table.num_rows))


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    return column


def chunks_of(source: TableSource, *, max_rows: int) -> Iterator[pa.Table]:
    """Cut a table into batches: one if it has at most `max_rows`, else of 250,000 rows. Never none."""
    limit = max_rows if source.num_rows <= max_rows else CHUNK_ROWS
    held: list[pa.RecordBatch] = []
    rows = produced = 0
    for whole in source.batches():
        batch = whole
        while rows + batch.num_rows > limit:
            held.append(batch.slice(0, limit - rows))
            batch = batch.slice(limit - rows)
            yield pa.Table.from_batches(held, schema=source.schema)
            held, rows, produced = [], 0, produced + 1
        held.append(batch)
        rows += batch.num_rows
    if rows or not produced:
        yield pa.Table.from_batches(held, schema=source.schema)
