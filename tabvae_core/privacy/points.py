"""Rows as points, so that near and far have a meaning for numbers, times and categories alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tabvae_core.evaluation.view import ColumnView, Floats, Side

__all__ = ["Encoding", "Points", "nearest"]

Points = npt.NDArray[np.float32]

_RANK_SCALE = 3**0.5
"""Two random ranks are then half as far apart, squared, as two different categories."""
_ONE_HOT = 16
"""Categories of a column up to which each has an axis of its own; more are spread over as many random axes."""
_QUERIES = 1_000
"""Rows looked up between two signs of life."""


@dataclass(frozen=True)
class Encoding:
    """Turns columns into coordinates that a population of real rows defines.

    A number becomes its rank among the reference rows, between them by interpolation, so that scale and skew do not
    matter; a null is a coordinate of its own. Two different categories lie at squared distance 1, of many categories on
    average (random unit vectors: Johnson & Lindenstrauss, 1984).

    Args:
        columns: The columns of all tables.
        reference: Values of the reference rows, by column, shape (rows,).
        seed: Of the random axes.

    """

    columns: Sequence[ColumnView]
    reference: Sequence[Floats]
    seed: int

    def points(self, side: Side, rows: npt.NDArray[np.int64] | None = None, *, without: int | None = None) -> Points:
        """Coordinates of rows of one table.

        Args:
            side: The table.
            rows: Row numbers; None: all.
            without: Index of a column that is left out.

        Returns:
            Shape (rows, coordinates).

        """
        return self.some(side, [k for k in range(len(self.columns)) if k != without], rows)

    def some(self, side: Side, columns: Sequence[int], rows: npt.NDArray[np.int64] | None = None) -> Points:
        """Coordinates of rows of one table, by some of its columns; shape (rows, coordinates)."""
        parts = []
        for k in columns:
            values = self.columns[k].values[side]
            parts.append(self._coordinates[k](values if rows is None else values[rows]))
        return np.concatenate(parts, axis=1) if parts else np.zeros((0, 0), np.float32)

    @cached_property
    def _coordinates(self) -> list[Callable[[Floats], Points]]:
        return [
            _ranks(self.reference[k]) if column.is_measure else _levels(column.values, [self.seed, k])
            for k, column in enumerate(self.columns)
        ]


def _ranks(reference: Floats) -> Callable[[Floats], Points]:
    known, counts = np.unique(reference[~np.isnan(reference)], return_counts=True)
    places = (np.cumsum(counts) - counts / 2) / max(counts.sum(), 1)

    def coordinates(values: Floats) -> Points:
        null = np.isnan(values)
        ranks = np.interp(values, known, places) if len(known) else np.zeros(len(values))
        return np.column_stack([np.where(null, 0.5, ranks) * _RANK_SCALE, null]).astype(np.float32)

    return coordinates


def _levels(values: Mapping[Side, Floats], seed: Sequence[int]) -> Callable[[Floats], Points]:
    """Coordinates of category codes; a null is one more category."""
    levels = 2 + int(max((np.nanmax(v) for v in values.values() if not np.isnan(v).all()), default=-1))
    axes = np.eye(levels)
    if levels > _ONE_HOT:
        axes = np.random.default_rng(list(seed)).standard_normal((levels, _ONE_HOT))
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    table = (axes * 0.5**0.5).astype(np.float32)
    return lambda codes: table[np.where(np.isnan(codes), levels - 1, codes).astype(np.int64)]


def nearest(
    points: Points, among: Points, k: int, *, tick: Callable[[float], None] = lambda share: None
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Find the nearest of many points by looking at all: exact, and quick enough, in many dimensions.

    Args:
        points: Shape (n, coordinates).
        among: Shape (m, coordinates), m > 0.
        k: Neighbours wanted; m where there are no more.
        tick: Told which share is done.

    Returns:
        Distances and row numbers, nearest first, shape (n, min(k, m)).

    """
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(among))
    distances, rows = np.zeros((len(points), k)), np.zeros((len(points), k), np.int64)
    finder = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(among)
    for start in range(0, len(points), _QUERIES):
        part = slice(start, start + _QUERIES)
        distances[part], rows[part] = finder.kneighbors(points[part])
        tick(min(1.0, part.stop / len(points)))
    return distances, rows
