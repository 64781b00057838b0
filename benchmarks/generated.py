"""Generated tables of any size, written one row group at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CATEGORY = "segment_0"
"""The column whose categories are counted."""
COLUMNS = 10
CATEGORIES = 10
_GROUP_CELLS = 2_000_000
_GROUP_ROWS = 100_000
_KINDS = ("segment", "amount", "visits", "active", "seen_at")

Cells = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Size:
    """Size of a generated table.

    Args:
        rows: Rows.
        columns: Columns, of which the first is a category.
        categories: Categories of that column.

    """

    rows: int
    columns: int = COLUMNS
    categories: int = CATEGORIES


def write_table(file: Path, size: Size) -> None:
    """Write a generated table, one row group in memory at a time.

    Every column leans on one hidden number of its row, so there is something to learn; a twentieth of the amounts is
    null. The first column is a category.

    Args:
        file: Parquet file to write.
        size: Rows, columns, categories.

    """
    group = max(1_000, min(_GROUP_ROWS, _GROUP_CELLS // size.columns))
    schema = pa.schema([pa.field(name, _TYPES[_kind(name)]) for name in _names(size.columns)])
    with pq.ParquetWriter(file, schema) as writer:
        for number, first in enumerate(range(0, size.rows, group)):
            rng = np.random.default_rng([0, number])
            hidden = rng.standard_normal(min(group, size.rows - first))
            columns = (_cells(name, size, hidden, rng) for name in schema.names)
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))


def _names(columns: int) -> list[str]:
    return [f"{_KINDS[number % len(_KINDS)]}_{number}" for number in range(columns)]


def _kind(name: str) -> str:
    return name.rpartition("_")[0]


def _cells(name: str, size: Size, hidden: Cells, rng: np.random.Generator) -> pa.Array:
    noisy = 0.6 * hidden + 0.8 * rng.standard_normal(len(hidden))
    count = size.categories if name == CATEGORY else CATEGORIES
    return _MAKERS[_kind(name)](noisy, rng, count)


def _segments(noisy: Cells, rng: np.random.Generator, count: int) -> pa.Array:
    # Half of the rows follow the hidden number, half fall anywhere: each category is met about equally often.
    place = np.where(rng.random(len(noisy)) < 0.5, 1 / (1 + np.exp(-1.7 * noisy)), rng.random(len(noisy)))
    codes = np.minimum((place * count).astype(np.int64), count - 1)
    return pa.array([f"s{code}" for code in codes.tolist()])


def _amounts(noisy: Cells, rng: np.random.Generator, count: int) -> pa.Array:
    return pa.array(np.round(np.exp(5 + noisy), 2), mask=rng.random(len(noisy)) < 0.05)


def _visits(noisy: Cells, rng: np.random.Generator, count: int) -> pa.Array:
    return pa.array(rng.poisson(np.exp(1 + 0.5 * noisy)))


def _flags(noisy: Cells, rng: np.random.Generator, count: int) -> pa.Array:
    return pa.array(noisy > 0.3)


def _times(noisy: Cells, rng: np.random.Generator, count: int) -> pa.Array:
    seconds = 1_700_000_000 + (noisy * 1e7).astype(np.int64)
    return pa.array(seconds * 1_000_000).cast(pa.timestamp("us"))


_TYPES = {
    "segment": pa.string(),
    "amount": pa.float64(),
    "visits": pa.int64(),
    "active": pa.bool_(),
    "seen_at": pa.timestamp("us"),
}
_MAKERS: dict[str, Callable[[Cells, np.random.Generator, int], pa.Array]] = {
    "segment": _segments,
    "amount": _amounts,
    "visits": _visits,
    "active": _flags,
    "seen_at": _times,
}
