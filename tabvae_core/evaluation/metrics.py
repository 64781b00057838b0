"""Figures of single columns and of whole rows: shape, null shares, copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.evaluation.view import ColumnView, Floats, Side, row_codes
from tabvae_core.schema import ColumnSchema
from tabvae_core.tables import row_hash

__all__ = ["Codes", "copies", "grid_codes", "kolmogorov_smirnov", "row_keys", "shape_error", "total_variation"]

Codes = npt.NDArray[np.int64]

GRID_BINS = 10
"""Deciles: coarse enough that a two-way table of 20,000 rows is not all noise."""


def kolmogorov_smirnov(first: Floats, second: Floats) -> float:
    """Largest difference between two empirical distribution functions, in [0, 1]; NaN are left out.

    An empty sample has a distribution function of 0 everywhere; two empty ones do not differ.
    """
    a, b = np.sort(first[~np.isnan(first)]), np.sort(second[~np.isnan(second)])
    at = np.concatenate([a, b])
    if not len(at):
        return 0.0
    below_a = np.searchsorted(a, at, side="right") / max(len(a), 1)
    below_b = np.searchsorted(b, at, side="right") / max(len(b), 1)
    return float(np.abs(below_a - below_b).max())


def total_variation(first: Codes, second: Codes) -> float:
    """Half the summed difference of the shares of each code, in [0, 1]; shapes (n,) and (m,)."""
    if not len(first) or not len(second):
        return 0.0
    size = int(max(first.max(), second.max())) + 1
    if size > 4 * (len(first) + len(second)):  # a sparse table: count only the cells that occur
        _, both = np.unique(np.concatenate([first, second]), return_inverse=True)
        first, second = both[: len(first)], both[len(first) :]
        size = int(both.max()) + 1
    share_a = np.bincount(first, minlength=size) / len(first)
    share_b = np.bincount(second, minlength=size) / len(second)
    return float(np.abs(share_a - share_b).sum() / 2)


def shape_error(column: ColumnView, side: Side) -> float:
    """Percent: KS statistic of a measure, or difference of null shares where larger; else total variation."""
    real, other = column.values[Side.HOLDOUT], column.values[side]
    if not column.is_measure:
        return 100 * total_variation(_category_codes(real), _category_codes(other))
    nulls = abs(float(np.isnan(real).mean()) - float(np.isnan(other).mean()))
    return 100 * max(kolmogorov_smirnov(real, other), nulls)


def grid_codes(column: ColumnView) -> dict[Side, Codes]:
    """A column on the coarse grid that all sides share: the held-out rows' decile bins, or categories.

    Nulls have a code of their own. Codes start at 0.
    """
    if not column.is_measure:
        return {side: _category_codes(values) for side, values in column.values.items()}
    real = column.values[Side.HOLDOUT]
    known = real[~np.isnan(real)]
    steps = np.linspace(0, 1, GRID_BINS + 1)[1:-1]
    edges = np.unique(np.quantile(known, steps)) if len(known) else np.zeros(1)
    return {
        side: np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right")).astype(np.int64)
        for side, values in column.values.items()
    }


def _category_codes(values: Floats) -> Codes:
    return np.where(np.isnan(values), 0, values + 1).astype(np.int64)


def row_keys(tables: Mapping[Side, pa.Table], columns: Sequence[ColumnSchema]) -> dict[Side, npt.NDArray[np.uint64]]:
    """64-bit hashes of the exact values of each row's given columns, by table, shape (rows,).

    Raises:
        DataError: A table lacks a column, or holds it in a type that does not compare.

    """
    keys = {side: np.zeros(table.num_rows, dtype=np.uint64) for side, table in tables.items()}
    for position, column in enumerate(columns):
        for side, codes in row_codes(tables, column).items():
            keys[side] = row_hash(keys[side] ^ row_hash(codes.astype(np.uint64), position), position)
    return keys


def copies(train: pa.Table, other: pa.Table, columns: Sequence[ColumnSchema], *, is_synthetic: bool) -> float | None:
    """Percent of `other`'s rows that equal a training row in every given column; None without columns.

    Rows are compared by a 64-bit hash of exact values: a false match among a million rows has odds of 1e-7.
    """
    if not columns or not other.num_rows:
        return None
    keys = row_keys({Side.TRAIN: train, (Side.SYNTHETIC if is_synthetic else Side.HOLDOUT): other}, columns)
    seen = np.unique(keys.pop(Side.TRAIN))
    (mine,) = keys.values()
    found = np.searchsorted(seen, mine)
    found[found == len(seen)] = 0
    return 100 * float((seen[found] == mine).mean()) if len(seen) else 0.0
