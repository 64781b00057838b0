"""Figures of column pairs: the trend error, and the matrices behind the heatmaps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from tabvae_core.evaluation.metrics import Codes, grid_codes, total_variation
from tabvae_core.evaluation.result import PairError, Pairs
from tabvae_core.evaluation.view import ColumnView, Floats, Side, TableView

__all__ = ["MAX_PAIRS", "Trend", "association_pairs", "correlation", "measure_matrix", "trend"]

MAX_PAIRS = 5_000
"""Pairs measured at most; of more, so many are drawn uniformly, which keeps the mean unbiased."""
MAX_HEATMAP = 40
"""Columns of a heatmap at most: more cannot be read."""
MAX_WORST = 20
MAX_LEVELS = 30
"""Categories that Cramér's V tells apart; the rest count as one, so that its bias stays small."""


@dataclass(frozen=True)
class Trend:
    """Errors of the measured pairs, in percent.

    Args:
        pairs: Indices of the columns, shape (p, 2).
        errors: Against the synthetic rows, shape (p,).
        floors: Against the training rows, shape (p,); None without them.
        total: Pairs that there are.

    """

    pairs: npt.NDArray[np.int64]
    errors: Floats
    floors: Floats | None
    total: int

    @property
    def value(self) -> float | None:
        """Mean error; None for a table of fewer than two columns."""
        return float(self.errors.mean()) if len(self.errors) else None

    @property
    def floor(self) -> float | None:
        """Mean floor."""
        return float(self.floors.mean()) if self.floors is not None and len(self.floors) else None


def trend(view: TableView, *, seed: int = 0, max_pairs: int = MAX_PAIRS) -> Trend:
    """Measure how far pairwise association is from that of the held-out rows.

    |r - r'| / 2 of two measures, else the total variation of the pair's two-way table on a shared grid.
    """
    if len(view.columns) < 2:
        return Trend(np.empty((0, 2), dtype=np.int64), np.empty(0), np.empty(0) if view.has_train else None, 0)
    pairs, total = _choose_pairs(len(view.columns), seed, max_pairs)
    grids = [grid_codes(column) for column in view.columns]
    measures = np.array([column.is_measure for column in view.columns], dtype=np.bool_)
    errors = _pair_errors(view, Side.SYNTHETIC, pairs, grids, measures)
    floors = _pair_errors(view, Side.TRAIN, pairs, grids, measures) if view.has_train else None
    return Trend(pairs, errors, floors, total)


def _choose_pairs(columns: int, seed: int, max_pairs: int) -> tuple[npt.NDArray[np.int64], int]:
    first, second = np.triu_indices(columns, k=1)
    pairs = np.stack([first, second], axis=1).astype(np.int64)
    if len(pairs) > max_pairs:
        chosen = np.sort(np.random.default_rng(seed).choice(len(pairs), max_pairs, replace=False))
        return pairs[chosen], len(pairs)
    return pairs, len(pairs)


def _pair_errors(
    view: TableView,
    side: Side,
    pairs: npt.NDArray[np.int64],
    grids: list[dict[Side, Codes]],
    measures: npt.NDArray[np.bool_],
) -> Floats:
    matrix = partial(measure_matrix, view.columns)
    correlations = np.abs(correlation(matrix(Side.HOLDOUT)) - correlation(matrix(side))) / 2
    errors = np.empty(len(pairs))
    for position, (i, j) in enumerate(pairs):
        if measures[i] and measures[j]:
            errors[position] = correlations[i, j]
            continue
        width = 1 + int(max(grids[j][Side.HOLDOUT].max(initial=0), grids[j][side].max(initial=0)))
        real, other = (grids[i][s] * width + grids[j][s] for s in (Side.HOLDOUT, side))
        errors[position] = total_variation(real, other)
    return 100 * errors


def measure_matrix(columns: tuple[ColumnView, ...], side: Side) -> Floats:
    """Measures as they are, categories as nulls, shape (rows, columns)."""
    if not columns:
        return np.empty((0, 0))
    return np.column_stack([c.values[side] if c.is_measure else np.full_like(c.values[side], np.nan) for c in columns])


def correlation(matrix: Floats) -> Floats:
    """Pearson's r of every two columns over the rows where both are known; 0 where either does not vary.

    Args:
        matrix: Shape (n, c), NaN where null.

    Returns:
        Shape (c, c), in [-1, 1].

    """
    known = ~np.isnan(matrix)
    counts = known.sum(axis=0).clip(min=1)
    filled = np.where(known, matrix, 0.0)
    centred = np.where(known, filled - filled.sum(axis=0) / counts, 0.0)
    scale = np.sqrt((centred**2).sum(axis=0) / counts)
    x = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)
    mask = known.astype(np.float64)
    n = (mask.T @ mask).clip(min=1)
    mean = x.T @ mask / n  # mean of column i over the rows where j is known
    square = (x**2).T @ mask / n
    covariance = x.T @ x / n - mean * mean.T
    variance = (square - mean**2).clip(min=0)
    spread = np.sqrt(variance * variance.T)
    r = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 1e-9)
    clipped: Floats = np.clip(r, -1.0, 1.0)
    return clipped


def association_pairs(view: TableView, errors: Trend) -> Pairs:
    """Matrices of the most related columns, and the pairs that are furthest apart."""
    order = np.argsort(-errors.errors, kind="stable")[:MAX_WORST]
    worst = tuple(
        PairError(
            first=view.columns[errors.pairs[k, 0]].name,
            second=view.columns[errors.pairs[k, 1]].name,
            error=round(float(errors.errors[k]), 4),
            floor=None if errors.floors is None else round(float(errors.floors[k]), 4),
        )
        for k in order
    )
    columns = _heatmap_columns(view, errors)
    if len(columns) < 2:
        return Pairs(measured=len(errors.pairs), total=errors.total, worst=worst)
    return Pairs(
        columns=tuple(column.name for column in columns),
        real=_rows(_association(columns, Side.HOLDOUT)),
        synthetic=_rows(_association(columns, Side.SYNTHETIC)),
        measured=len(errors.pairs),
        total=errors.total,
        worst=worst,
    )


def _heatmap_columns(view: TableView, errors: Trend) -> tuple[ColumnView, ...]:
    """All columns in their order, or the 40 with the largest errors: those are what a reader looks for."""
    if len(view.columns) <= MAX_HEATMAP:
        return view.columns
    blame = np.zeros(len(view.columns))
    np.add.at(blame, errors.pairs[:, 0], errors.errors)
    np.add.at(blame, errors.pairs[:, 1], errors.errors)
    chosen = sorted(np.argsort(-blame, kind="stable")[:MAX_HEATMAP])
    return tuple(view.columns[k] for k in chosen)


def _rows(matrix: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(v), 4) for v in row) for row in matrix)


def _association(columns: tuple[ColumnView, ...], side: Side) -> Floats:
    result = correlation(measure_matrix(columns, side))
    levels = {k: _levels(column, side) for k, column in enumerate(columns) if not column.is_measure}
    for i, first in enumerate(columns):
        result[i, i] = 1.0
        for j in range(i):
            second = columns[j]
            if first.is_measure and second.is_measure:
                continue
            if not first.is_measure and not second.is_measure:
                value = _cramers_v(levels[i], levels[j])
            elif first.is_measure:
                value = _correlation_ratio(levels[j], first.values[side])
            else:
                value = _correlation_ratio(levels[i], second.values[side])
            result[i, j] = result[j, i] = value
    return result


def _levels(column: ColumnView, side: Side) -> Codes:
    """Codes of the 30 most frequent held-out categories, 0 for all others, -1 where null; shape (n,)."""
    real = column.values[Side.HOLDOUT]
    frequency = np.bincount(real[~np.isnan(real)].astype(np.int64), minlength=len(column.labels or ()))
    level = np.zeros(len(frequency) + 1, dtype=np.int64)
    level[np.argsort(-frequency, kind="stable")[:MAX_LEVELS]] = np.arange(1, min(MAX_LEVELS, len(frequency)) + 1)
    level[-1] = -1
    return level[np.nan_to_num(column.values[side], nan=-1).astype(np.int64)]


def _cramers_v(first: Codes, second: Codes) -> float:
    """Cramér's V with the bias correction of Bergsma (2013), over the rows where both are known."""
    known = (first >= 0) & (second >= 0)
    n = int(known.sum())
    if n < 2:
        return 0.0
    table = np.zeros((MAX_LEVELS + 1, MAX_LEVELS + 1))
    np.add.at(table, (first[known], second[known]), 1)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    phi = float(((table - expected) ** 2 / expected).sum()) / n
    rows, columns = table.shape
    phi = max(0.0, phi - (rows - 1) * (columns - 1) / (n - 1))
    rows_, columns_ = rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)
    smaller = min(rows_, columns_) - 1
    return float(min(1.0, np.sqrt(phi / smaller))) if smaller > 1e-9 else 0.0


def _correlation_ratio(levels: Codes, values: Floats) -> float:
    """Square root of the share of a measure's variance that lies between categories, in [0, 1]."""
    known = (levels >= 0) & ~np.isnan(values)
    if known.sum() < 2:
        return 0.0
    x, codes = values[known] - values[known].mean(), levels[known]
    total = float((x**2).sum())
    if total <= 0:
        return 0.0
    counts = np.bincount(codes, minlength=MAX_LEVELS + 1)
    sums = np.bincount(codes, weights=x, minlength=MAX_LEVELS + 1)
    between = float((sums[counts > 0] ** 2 / counts[counts > 0]).sum())
    return float(np.sqrt(min(1.0, between / total)))
