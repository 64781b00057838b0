"""What the core reads rows from: anything that can hand out record batches again and again.

A `TableSource` is re-iterable, so a step makes as many passes as it needs without holding the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "InMemoryTable",
    "Part",
    "RowSample",
    "RowSplit",
    "TableSource",
    "as_source",
    "collect",
    "filter_rows",
    "resampled_rows",
    "row_hash",
    "take_rows",
]

BATCH_ROWS = 65_536

Part = Literal["train", "holdout"]


@runtime_checkable
class TableSource(Protocol):
    """A table that streams. Every pass yields the same rows in the same order."""

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema, with metadata."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows in all batches together."""
        ...

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows as record batches of bounded size, all columns or the named ones."""
        ...


class InMemoryTable:
    """A `pa.Table` as a `TableSource`."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the table."""
        return self._table.schema

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return int(self._table.num_rows)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the table in batches of at most 65,536 rows."""
        table = self._table if columns is None else self._table.select(list(columns))
        yield from table.to_batches(max_chunksize=BATCH_ROWS)


def row_hash(rows: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Hash row numbers to 64 uniform bits with splitmix64 (Steele et al., 2014): a shuffle without a table.

    Args:
        rows: Row numbers, shape (n,).
        seed: Chooses the hash.

    Returns:
        Hashes, shape (n,).

    """
    with np.errstate(over="ignore"):
        x = rows + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def filter_rows(batch: pa.RecordBatch, mask: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """Keep the rows whose mask is true, also of layouts that Arrow's own filter lacks (views, run-end encoding)."""
    kept = pa.array(mask)
    try:
        return batch.filter(kept)
    except pa.ArrowNotImplementedError:
        return pa.RecordBatch.from_arrays(_plainly(batch, lambda cells: cells.filter(kept)), schema=batch.schema)


def take_rows(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Choose rows by number, in any order and any number of times, also of layouts that Arrow's own take lacks."""
    chosen = pa.array(rows)
    try:
        return table.take(chosen)
    except pa.ArrowNotImplementedError:
        return pa.Table.from_arrays(_plainly(table, lambda cells: cells.take(chosen)), schema=table.schema)


def resampled_rows(
    weights: npt.NDArray[np.float64], strata: npt.NDArray[np.int64], rows: int, seed: int
) -> npt.NDArray[np.int64]:
    """Choose rows in proportion to weights by systematic resampling (Kitagawa, 1996).

    Args:
        weights: Not negative, not all zero, shape (n,).
        strata: Group of each row, shape (n,): each group is met to within a row.
        rows: Rows wanted.
        seed: Decides which rows of a group.

    Returns:
        Row numbers, ascending, shape (rows,); a row is there as often as its weight says, to within one.

    """
    order = np.lexsort((row_hash(np.arange(len(weights), dtype=np.uint64), seed), strata))
    reach = np.cumsum(weights[order])
    places = (np.arange(rows) + 0.5) / max(rows, 1) * reach[-1]
    chosen: npt.NDArray[np.int64] = np.sort(order[np.searchsorted(reach, places)])
    return chosen


def _plainly(data: pa.Table | pa.RecordBatch, choose: Callable[[pa.Array], pa.Array]) -> list[pa.Array]:
    """Choose cells of every column in its plain layout."""
    from tabvae_core.codecs.ordinal import plain, restore_type

    return [restore_type(choose(plain(column)), column.type) for column in data.columns]


class RowSplit:
    """One side of a train / held-out split, as a rule over row numbers: no copy of a real row is ever written.

    Args:
        source: The whole table.
        part: "train" or "holdout".
        holdout: Share of the rows held out, in (0, 1); 0 holds out none.
        seed: Seed of the split; the same seed always holds out the same rows.

    """

    def __init__(self, source: TableSource, part: Part, *, holdout: float, seed: int) -> None:
        self._source, self._part, self._holdout, self._seed = source, part, holdout, seed
        self._num_rows: int | None = None

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the whole table."""
        return self._source.schema

    def _mask(self, start: int, rows: int) -> npt.NDArray[np.bool_]:
        hashes = row_hash(np.arange(start, start + rows, dtype=np.uint64), self._seed)
        held = hashes.astype(np.float64) < self._holdout * 2.0**64
        return held if self._part == "holdout" else ~held

    @property
    def num_rows(self) -> int:
        """Rows on this side; follows from the row numbers alone, no data is read."""
        if self._num_rows is None:
            total, count = self._source.num_rows, 0
            for start in range(0, total, 1 << 20):
                count += int(self._mask(start, min(1 << 20, total - start)).sum())
            self._num_rows = count
        return self._num_rows

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows of this side, in the source's order."""
        start = 0
        for batch in self._source.batches(columns):
            mask = self._mask(start, batch.num_rows)
            start += batch.num_rows
            yield filter_rows(batch, mask)


class RowSample:
    """At most `max_rows` uniformly chosen rows of a source, in its order; all of them when it has no more.

    Args:
        source: The whole table.
        max_rows: Rows wanted.
        seed: Chooses the rows.

    """

    def __init__(self, source: TableSource, max_rows: int, *, seed: int) -> None:
        self._source, self._max_rows, self._seed = source, max_rows, seed

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the whole table."""
        return self._source.schema

    @property
    def num_rows(self) -> int:
        """Rows chosen."""
        return min(self._max_rows, self._source.num_rows)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the chosen rows."""
        total = self._source.num_rows
        if total <= self._max_rows:
            yield from self._source.batches(columns)
            return
        hashes = row_hash(np.arange(total, dtype=np.uint64), self._seed)
        chosen = np.zeros(total, dtype=np.bool_)
        chosen[np.argpartition(hashes, self._max_rows)[: self._max_rows]] = True
        start = 0
        for batch in self._source.batches(columns):
            yield filter_rows(batch, chosen[start : start + batch.num_rows])
            start += batch.num_rows


def as_source(table: pa.Table | TableSource) -> TableSource:
    """Take a `pa.Table` or anything that streams."""
    return InMemoryTable(table) if isinstance(table, pa.Table) else table


def collect(source: TableSource, *, max_rows: int | None = None, seed: int = 0) -> pa.Table:
    """Read a source into memory, at most `max_rows` uniformly chosen rows of it, in the source's order."""
    chosen = source if max_rows is None else RowSample(source, max_rows, seed=seed)
    return pa.Table.from_batches(chosen.batches(), schema=source.schema)
