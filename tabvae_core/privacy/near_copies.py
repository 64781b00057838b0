"""Near copies of rare training rows: found while rows are drawn, so that they can be drawn again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tabvae_core.evaluation.view import distinct_values, measure, modelled, plain
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import Kind
from tabvae_core.tables import RowSample, TableSource, row_hash

__all__ = ["NearCopies"]

_COARSE = 10
"""Quantile bins of a number: a training row that no other shares all bins and categories with is rare."""
_FINE = 200
"""A drawn row that shares all of these with a rare one, on either of two grids half a bin apart, is a near copy."""
_ENDS = (0.001, 0.01, 0.99, 0.999)
"""Further bins at the ends, where numbers are rare."""
_GRID_ROWS = 100_000

Hashes = npt.NDArray[np.uint64]
_Code = Callable[[pa.Array], Hashes]


class NearCopies:
    """A condition on drawn rows: none all but equals a training row that is unlike any other.

    Frequent rows may be repeated as often as they like. Of training rows only hashes are held, 16 bytes a rare row, in
    this process alone; nothing of them is written. The answer follows from a row by itself, so blocks can be drawn in
    any order.
    """

    text = "no near copy of a rare training row (privacy.near_copies: redraw)"

    def __init__(self, columns: tuple[ColumnSchema, ...], grids: tuple[list[_Code], ...], rare: list[Hashes]) -> None:
        self._columns, self._grids, self._rare = columns, grids, rare
        self._lock, self.redrawn = Lock(), 0

    @classmethod
    def fit(cls, rows: TableSource, schema: TableSchema, *, progress: Progress = silent) -> NearCopies:
        """Look at the training rows twice: for the grids, and for the rare rows.

        Args:
            rows: The training rows.
            schema: Their columns; identifiers, text, nested and constant ones are left out.
            progress: Told of the rows.

        """
        columns = modelled(schema)
        names = [column.name for column in columns]
        some = pa.Table.from_batches(
            RowSample(rows, _GRID_ROWS, seed=0).batches(names), schema=pa.schema([rows.schema.field(n) for n in names])
        )
        coarse, fine, shifted = (
            [_code(column, some.column(column.name), bins, shift) for column in columns]
            for bins, shift in ((_COARSE, 0.0), (_FINE, 0.0), (_FINE, 0.5))
        )
        parts: list[tuple[Hashes, ...]] = []
        done = 0
        for batch in rows.batches(names):
            parts.append(tuple(_keys(batch, columns, grid) for grid in (coarse, fine, shifted)))
            done += batch.num_rows
            progress(ProgressEvent("read", done, rows.num_rows, "rows", "rare rows"))
        cells, *held = (np.concatenate(part) if part else np.zeros(0, np.uint64) for part in zip(*parts, strict=True))
        _, first, counts = np.unique(cells, return_index=True, return_counts=True)
        alone = first[counts == 1]
        return cls(columns, (fine, shifted), [np.unique(keys[alone]) for keys in held])

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that are compared."""
        return frozenset(column.name for column in self._columns)

    def evaluate(self, data: pa.Table) -> pa.BooleanArray:
        """Test every row: true where it is no near copy. Counts those that are in `redrawn`."""
        found = np.zeros(data.num_rows, dtype=np.bool_)
        for grid, rare in zip(self._grids, self._rare, strict=True):
            found |= np.isin(_keys(data, self._columns, grid), rare)
        with self._lock:
            self.redrawn += int(found.sum())
        return pa.array(~found)


def _keys(data: pa.Table | pa.RecordBatch, columns: Iterable[ColumnSchema], codes: list[_Code]) -> Hashes:
    """One hash of each row's cells on a grid, shape (rows,)."""
    keys = np.zeros(data.num_rows, dtype=np.uint64)
    for position, (column, code) in enumerate(zip(columns, codes, strict=True)):
        cells = data.column(column.name)
        cells = cells if isinstance(cells, pa.ChunkedArray) else pa.chunked_array([cells])
        keys = row_hash(keys ^ row_hash(code(plain(cells)), position), position)
    return keys


def _code(column: ColumnSchema, sample: pa.ChunkedArray, bins: int, shift: float) -> _Code:
    """What a cell counts as: a category as itself, a number as its bin between quantiles of the sample."""
    if column.kind not in (Kind.NUMBER, Kind.DATETIME):
        return _hashed
    known = measure(plain(sample))
    known = known[~np.isnan(known)]
    steps = np.unique([*((np.arange(bins) + shift) / bins), *_ENDS])
    edges = np.unique(np.quantile(known, steps[steps > 0])) if len(known) else np.zeros(0)

    def binned(cells: pa.ChunkedArray) -> Hashes:
        values = measure(cells)
        places = np.searchsorted(edges, values, side="right")
        return np.where(np.isnan(values), len(edges) + 1, places).astype(np.uint64)

    return binned


def _hashed(cells: pa.ChunkedArray) -> Hashes:
    values, places = distinct_values(cells)
    hashes = np.append(pd.util.hash_array(np.array(values, dtype=object), categorize=False), np.uint64(0))
    return hashes[places]
