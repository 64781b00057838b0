"""Usefulness: trees learned on synthetic rows predict a column of held-out rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tabvae_core.evaluation.classifier import MIN_ROWS, learn, roc_auc, rounds, trees
from tabvae_core.evaluation.view import ColumnView, Floats, Side, TableView

__all__ = ["MAX_CLASSES", "utility"]

MAX_CLASSES = 20
"""Classes told apart; rarer ones of the held-out rows count as one, since trees grow once a class."""
MAX_VALUES = 10
"""A number of more distinct values is predicted as a number, of fewer as a class."""


def utility(view: TableView, target: str, side: Side, *, seed: int = 0) -> float | None:
    """Train on the rows of `side`, test on held-out rows.

    Args:
        view: The tables; all columns but the target predict it.
        target: Name of the column to predict.
        side: Synthetic rows, or training rows for the floor.
        seed: Seed of the trees.

    Returns:
        R2 of a measure; AUC of a category, averaged over its classes against the rest. A class that `side`
        never shows counts 0.5. None where there is nothing to predict, or nothing to predict it from.

    """
    column = next((c for c in view.columns if c.name == target), None)
    if column is None or len(view.columns) < 2:
        return None
    keep = [k for k, c in enumerate(view.columns) if c.name != target]
    x, x_test = view.matrix(side)[:, keep], view.matrix(Side.HOLDOUT)[:, keep]
    if _is_regression(column):
        return _r2(x, column.values[side], x_test, column.values[Side.HOLDOUT], seed)
    y, y_test = (_classes(column, s) for s in (side, Side.HOLDOUT))
    return _auc(x, y, x_test, y_test, seed)


def _is_regression(column: ColumnView) -> bool:
    real = column.values[Side.HOLDOUT]
    return column.is_measure and len(np.unique(real[~np.isnan(real)])) > MAX_VALUES


def _r2(x: Floats, y: Floats, x_test: Floats, y_test: Floats, seed: int) -> float | None:
    known, known_test = ~np.isnan(y), ~np.isnan(y_test)
    if known.sum() < MIN_ROWS or known_test.sum() < MIN_ROWS:
        return None
    truth = y_test[known_test]
    model = learn(trees("regressor", seed=seed, iterations=rounds(int(known.sum()))), x[known], y[known])
    guess = model.predict(x_test[known_test])
    total = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - guess) ** 2).sum()) / total if total > 0 else None


def _classes(column: ColumnView, side: Side) -> npt.NDArray[np.int64]:
    """Classes by falling frequency among the held-out rows, null a class of its own; rare ones are last."""
    real = column.values[Side.HOLDOUT]
    levels, counts = np.unique(np.nan_to_num(real, nan=-np.inf), return_counts=True)
    order = levels[np.argsort(-counts, kind="stable")]
    rank = np.full(len(levels), 0, dtype=np.int64)
    rank[np.searchsorted(levels, order)] = np.arange(len(order))
    values = np.nan_to_num(column.values[side], nan=-np.inf)
    place = np.searchsorted(levels, values).clip(max=len(levels) - 1)
    classes = np.where(levels[place] == values, rank[place], len(order))  # never seen: after all others
    return np.minimum(classes, MAX_CLASSES - 1) if len(order) > MAX_CLASSES else classes


def _auc(x: Floats, y: npt.NDArray[np.int64], x_test: Floats, y_test: npt.NDArray[np.int64], seed: int) -> float | None:
    classes = np.unique(y_test)
    known = np.isin(y, classes)
    if len(classes) < 2 or len(y_test) < MIN_ROWS:
        return None
    if known.sum() < MIN_ROWS or len(np.unique(y[known])) < 2:
        return 0.5
    iterations = min(rounds(int(known.sum())), max(20, 600 // len(classes)))
    model = learn(trees("classifier", seed=seed, iterations=iterations), x[known], y[known])
    probability = model.predict_proba(x_test)
    by_class = {int(c): probability[:, k] for k, c in enumerate(model.classes_)}
    if len(classes) == 2:
        classes = classes[1:]  # one against the rest is the same question twice
    nothing = np.zeros(len(y_test))
    return float(np.mean([roc_auc(y_test == c, by_class.get(int(c), nothing)) for c in classes]))
