"""Both tables on one map in which near rows stay near: t-SNE (van der Maaten and Hinton, 2008) of a bounded sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tabvae_core.evaluation.charts import Density, density, plot_limits, row_features
from tabvae_core.evaluation.view import Floats, Side, TableView

__all__ = ["NeighbourMap", "neighbour_map"]

ROWS = 750
"""Rows of each table: the time grows faster than the rows, and more dots cannot be told apart."""
MIN_ROWS = 60
NEAREST = 10
PERPLEXITY = 30
CELLS = 14
_MAIN_AXES = 30
"""Axes kept before the map is made, which is what t-SNE's authors do against noise."""


@dataclass(frozen=True)
class NeighbourMap:
    """The map, and how well the tables mix.

    Args:
        real: Counts of held-out rows.
        points: Synthetic rows, shape (n, 2).
        limits: Of the two axes, which have no unit.
        mixing: Share of the ten nearest neighbours, over all rows, that are of the other table; 0.5 where the tables
            are one.
        rows: Rows of each table.

    """

    real: Density
    points: Floats
    limits: tuple[tuple[float, float], tuple[float, float]]
    mixing: float
    rows: int


def neighbour_map(view: TableView, *, seed: int = 0) -> NeighbourMap | None:
    """Map as many rows of both tables; None where there are fewer than 60 a side, or one column."""
    n = min(ROWS, view.rows[Side.HOLDOUT], view.rows[Side.SYNTHETIC])
    if n < MIN_ROWS or len(view.columns) < 2:
        return None
    rng = np.random.default_rng(seed)
    sides = [np.hstack(parts)[rng.permutation(len(parts[0]))[:n]] for parts in zip(*row_features(view), strict=True)]
    rows = _main_axes(np.concatenate(sides))
    if not rows.std() > 0:
        return None
    places = _tsne(rows, seed)
    real, points = places[:n], places[n:]
    limits = (plot_limits(places[:, 0]), plot_limits(places[:, 1]))
    mixing = _mixing(rows, n)
    return NeighbourMap(density(real[:, 0], real[:, 1], limits, cells=CELLS), points, limits, mixing, n)


def _main_axes(rows: Floats) -> Floats:
    """Rows on their main axes, shape (n, at most 30)."""
    centred = rows - rows.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(rows))
    kept = np.argsort(variances)[::-1][:_MAIN_AXES]
    projected: Floats = centred @ axes[:, kept]
    return projected


def _tsne(rows: Floats, seed: int) -> Floats:
    from sklearn.manifold import TSNE

    start = rows[:, :2] if rows.shape[1] > 1 else np.column_stack([rows, np.zeros(len(rows))])
    start = 1e-4 * start / max(float(start[:, 0].std()), 1e-12)
    model = TSNE(perplexity=PERPLEXITY, init=start.astype(np.float32), max_iter=500, random_state=seed)
    return np.asarray(model.fit_transform(rows), dtype=np.float64)


def _mixing(rows: Floats, n: int) -> float:
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=NEAREST).fit(rows).kneighbors(return_distance=False)
    is_real = np.arange(2 * n) < n
    return float((is_real[nearest] != is_real[:, None]).mean())
