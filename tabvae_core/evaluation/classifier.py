"""How well trees tell synthetic rows from real ones: the two-sample test by classifier.

After Lopez-Paz & Oquab (2017). Boosted trees over all columns give the figure. Which columns give the rows
away is measured by shuffling one column at a time, and by each column alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tabvae_core.evaluation.view import Floats, Side, TableView

__all__ = ["MIN_ROWS", "Detection", "column_auc", "detect", "learn", "roc_auc", "rounds", "trees"]

FOLDS = 5
MIN_ROWS = 10
"""Rows of each side below which a classifier says nothing."""
MAX_SHUFFLED = 50
"""Columns tried by shuffling at most, those that detect best by themselves: it bounds time on wide tables."""
COLUMN_BINS = 64


@dataclass(frozen=True)
class Detection:
    """What the classifier found.

    Args:
        auc: Area under the ROC curve, out of fold; 0.5 is perfect.
        drops: By column index: the AUC lost by shuffling the column in the rows of the first fold.

    """

    auc: float
    drops: dict[int, float]


def trees(kind: str, *, seed: int, iterations: int, categorical: npt.NDArray[np.bool_] | None = None) -> Any:
    """Boosted trees with fixed settings and no early stopping, so that the same rows give the same figure.

    Args:
        kind: "classifier" or "regressor".
        seed: Seed of the random parts.
        iterations: Boosting rounds.
        categorical: Features that are categories, as codes below 255, shape (columns,); else codes are numbers.

    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    model = HistGradientBoostingClassifier if kind == "classifier" else HistGradientBoostingRegressor
    return model(
        max_iter=iterations,
        learning_rate=0.1,
        max_leaf_nodes=63,
        max_depth=6,
        max_features=0.8,
        early_stopping=False,
        categorical_features=categorical,
        random_state=seed,
    )


def rounds(rows: int) -> int:
    """Boosting rounds for so many rows: few rows are learned by heart in fewer."""
    return min(200, max(40, rows // 20))


def learn(model: Any, x: Floats, y: npt.NDArray[Any]) -> Any:
    """Fit a model. A column without any known value becomes constant: scikit-learn 1.9 cannot bin it."""
    blank = np.isnan(x).all(axis=0)
    return model.fit(np.where(blank, 0.0, x), y)


def roc_auc(truth: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve by the rank sum, ties counted half; 0.5 where one class is missing.

    Args:
        truth: Class of each row, shape (n,).
        scores: Higher means more likely true, shape (n,).

    """
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return 0.5
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def detect(view: TableView, side: Side, *, seed: int = 0, singles: dict[int, float] | None = None) -> Detection | None:
    """Tell the rows of `side` from as many held-out rows.

    Args:
        view: The tables.
        side: Synthetic rows, or training rows for the floor.
        seed: Seed of folds, trees and shuffles.
        singles: AUC of each column alone; given, the columns are also shuffled one by one.

    Returns:
        None where there are no columns or too few rows.

    """
    n = min(view.rows[Side.HOLDOUT], view.rows[side])
    if n < MIN_ROWS or not view.columns:
        return None
    x = np.concatenate([_choose(view.matrix(s), n, seed) for s in (Side.HOLDOUT, side)])
    y = np.repeat([False, True], n)
    fold = _folds(n, seed)
    scores, drops = np.zeros(2 * n), {}
    for k in range(FOLDS):
        test = fold == k
        model = learn(trees("classifier", seed=seed, iterations=rounds(2 * n)), x[~test], y[~test])
        scores[test] = model.predict_proba(x[test])[:, 1]
        if k == 0 and singles is not None:
            drops = _shuffle(model, x[test], y[test], singles, seed)
    return Detection(roc_auc(y, scores), drops)


def _choose(rows: Floats, n: int, seed: int) -> Floats:
    """`n` rows, chosen uniformly: the first ones of a sorted table would not be like the others."""
    return rows if len(rows) == n else rows[np.sort(np.random.default_rng(seed).choice(len(rows), n, replace=False))]


def _folds(n: int, seed: int) -> npt.NDArray[np.int64]:
    """Fold of each of 2 n rows, balanced within both halves."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.arange(n) % FOLDS) for _ in range(2)])


def _shuffle(model: Any, x: Floats, y: npt.NDArray[np.bool_], singles: dict[int, float], seed: int) -> dict[int, float]:
    """Permutation importance (Breiman, 2001) in AUC, on rows that the model has not seen."""
    whole = roc_auc(y, model.predict_proba(x)[:, 1])
    rng = np.random.default_rng(seed)
    drops = {}
    for column in sorted(singles, key=lambda k: -singles[k])[:MAX_SHUFFLED]:
        kept = x[:, column].copy()
        x[:, column] = rng.permutation(kept)
        drops[column] = whole - roc_auc(y, model.predict_proba(x)[:, 1])
        x[:, column] = kept
    return drops


def column_auc(real: Floats, other: Floats, *, seed: int = 0) -> float | None:
    """AUC of one column alone: the odds of each of its bins, learned on four folds and tested on the fifth.

    Args:
        real: Measures or category codes of the held-out rows, NaN where null, shape (n,).
        other: Of the other rows, shape (m,).
        seed: Seed of the folds.

    Returns:
        None below 10 rows a side.

    """
    n = min(len(real), len(other))
    if n < MIN_ROWS:
        return None
    values, y = np.concatenate([_choose(v, n, seed) for v in (real, other)]), np.repeat([False, True], n)
    bins = _pooled_bins(values)
    size = int(bins.max()) + 1
    fold, scores = _folds(n, seed), np.zeros(2 * n)
    for k in range(FOLDS):
        test = fold == k
        ones = np.bincount(bins[~test & y], minlength=size) + 1.0
        zeros = np.bincount(bins[~test & ~y], minlength=size) + 1.0
        scores[test] = (ones / (ones + zeros))[bins[test]]
    return roc_auc(y, scores)


def _pooled_bins(values: Floats) -> npt.NDArray[np.int64]:
    """Distinct values where they are few, else bins of equal size; null is a bin of its own."""
    known = ~np.isnan(values)
    distinct = np.unique(values[known])
    if len(distinct) > COLUMN_BINS:
        distinct = np.unique(np.quantile(values[known], np.linspace(0, 1, COLUMN_BINS + 1)[:-1]))
    bins = np.zeros(len(values), dtype=np.int64)
    bins[known] = np.searchsorted(distinct, values[known], side="right")
    return bins
