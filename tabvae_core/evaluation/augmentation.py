"""Do synthetic rows of a rare class help? Trees that learned with and without them, tested on held-out real rows.

The measure is average precision: how pure the top of the ranking is, averaged over the rows of the class that are found
there. Unlike accuracy and AUC it does not call a classifier good for finding the frequent class. Beside synthetic rows
stand as many by SMOTE (Chawla et al., 2002), which interpolates between neighbours, in its form for mixed columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs.ordinal import plain
from tabvae_core.evaluation.classifier import learn, rounds, trees
from tabvae_core.evaluation.result import Augmentation, AugmentedFit
from tabvae_core.evaluation.view import ColumnView, Floats, Side, TableView, modelled, sampled, table_view
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import TableSchema

__all__ = ["MIN_OF_CLASS", "augmentation", "average_precision", "missing_rows", "of_class"]

MIN_OF_CLASS = 10
"""Real rows of the class, on each side, below which nothing is said."""
MAX_ROWS = 50_000
MAX_CELLS = 2_000_000
"""Rows and cells of training and of held-out rows that are used at most, chosen uniformly: they bound time."""
FITS = 3
"""Trees are grown with so many seeds and their scores averaged, so that luck of the trees is no gain."""
REPLICATES = 500
MAX_CATEGORIES = 254
"""Categories that trees tell apart, the most frequent ones; all others count as one."""
NEIGHBOURS = 5
"""Of a row, between which and the row SMOTE interpolates; the paper's own number."""

Mask = npt.NDArray[np.bool_]


def augmentation(
    train: pa.Table,
    holdout: pa.Table,
    synthetic: pa.Table,
    schema: TableSchema,
    *,
    column: str,
    value: Any,
    share: float,
    seed: int = 0,
    progress: Progress = silent,
) -> Augmentation | None:
    """Measure what rows of a class gain a classifier that tells the class from all others.

    Args:
        train: Real rows that the model learned.
        holdout: Real rows that it did not; all tests are on them.
        synthetic: Synthetic rows, of which those of the class are added to the training rows.
        schema: The columns and their kinds.
        column: Column of the classes; all other counted columns predict it.
        value: The class, as a Python value of the column's type.
        share: Share of the class among training and added rows together, in (0, 1), as far as there are so many.
        seed: Of all random choices.
        progress: Told of every fit.

    Returns:
        None where the class has fewer than 10 training or held-out rows, or no synthetic row is to be added.

    """
    mine = of_class(synthetic, column, value)
    tables = {Side.TRAIN: train, Side.HOLDOUT: holdout, Side.SYNTHETIC: synthetic.filter(pa.array(mine))}
    wide = max(1, len(modelled(schema)))
    most = max(1_000, min(MAX_ROWS, MAX_CELLS // wide))
    tables = {side: sampled(table, most, seed) for side, table in tables.items()}
    truth = {side: of_class(tables[side], column, value) for side in (Side.TRAIN, Side.HOLDOUT)}
    added = min(
        missing_rows(len(truth[Side.TRAIN]), int(truth[Side.TRAIN].sum()), share), tables[Side.SYNTHETIC].num_rows
    )
    if min(int(of.sum()) for of in truth.values()) < MIN_OF_CLASS or added < 1:
        return None
    x, categorical = _features(tables, schema, column)
    real = _Rows(x[Side.TRAIN], truth[Side.TRAIN])
    arms = {
        "real": real,
        "synthetic": real.with_more(x[Side.SYNTHETIC][:added]),
        "smote": _smote(real, categorical, added, seed),
    }
    fitted = {name: rows for name, rows in arms.items() if rows is not None}
    scores = {}
    for done, (name, rows) in enumerate(fitted.items()):
        progress(ProgressEvent("augment", done, len(fitted), "fits", name))
        scores[name] = _scores(rows, x[Side.HOLDOUT], categorical, rounds(len(real.y)), seed)
    progress(ProgressEvent("augment", len(fitted), len(fitted), "fits"))
    gains = _gains(truth[Side.HOLDOUT], scores, seed)
    results = {
        name: AugmentedFit(
            rows=len(rows.y),
            of_class=int(rows.y.sum()),
            average_precision=round(average_precision(truth[Side.HOLDOUT], scores[name]), 6),
            **gains.get(name, {}),
        )
        for name, rows in fitted.items()
    }
    return Augmentation(
        column=column,
        value=str(value),
        added=added,
        holdout_rows=len(truth[Side.HOLDOUT]),
        holdout_of_class=int(truth[Side.HOLDOUT].sum()),
        real=results["real"],
        synthetic=results["synthetic"],
        smote=results.get("smote"),
    )


def of_class(table: pa.Table, column: str, value: Any) -> Mask:
    """Which rows are of a class, shape (n,); nulls are of none."""
    cells = plain(table.column(column))
    same = pc.fill_null(pc.equal(cells, pa.scalar(value).cast(cells.type)), False)
    return np.asarray(same.to_numpy(zero_copy_only=False), dtype=np.bool_)


def missing_rows(rows: int, of_class: int, share: float) -> int:
    """Rows of a class to add to `rows` rows, of which `of_class` are of it, so that it has the share; 0 or more."""
    return max(0, math.ceil((share * rows - of_class) / (1 - share) - 1e-9))


# Features -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Rows to learn: features (n, columns), and whether they are of the class (n,)."""

    x: Floats
    y: Mask

    def with_more(self, x: Floats) -> _Rows:
        """These rows, and further ones of the class."""
        return _Rows(np.concatenate([self.x, x]), np.concatenate([self.y, np.ones(len(x), dtype=np.bool_)]))


def _features(tables: Mapping[Side, pa.Table], schema: TableSchema, target: str) -> tuple[dict[Side, Floats], Mask]:
    """Counted columns but the target, by side (n, columns), and which of them are categories."""
    view = table_view(tables, [column for column in modelled(schema) if column.name != target])
    columns = tuple(column if column.is_measure else _frequent_first(column) for column in view.columns)
    ready = TableView(columns, view.rows)
    return {side: ready.matrix(side) for side in tables}, np.array([not c.is_measure for c in columns], dtype=np.bool_)


def _frequent_first(column: ColumnView) -> ColumnView:
    """Codes by falling frequency among the training rows; those beyond what trees tell apart are one."""
    labels = column.labels or ()
    known = column.values[Side.TRAIN]
    counts = np.bincount(known[~np.isnan(known)].astype(np.int64), minlength=len(labels))
    rank = np.empty(len(labels) + 1)
    rank[np.argsort(-counts, kind="stable")] = np.minimum(np.arange(len(labels)), MAX_CATEGORIES)
    rank[-1] = np.nan
    values = {
        side: rank[np.nan_to_num(codes, nan=len(labels)).astype(np.int64)] for side, codes in column.values.items()
    }
    return ColumnView(column.name, column.kind, column.unit, labels, values)


def _smote(real: _Rows, categorical: Mask, added: int, seed: int) -> _Rows | None:
    """Add rows by SMOTE: its form for measures, for categories, or for both; None without imbalanced-learn.

    SMOTE knows no nulls: those of measures become the median, those of categories one more category.
    """
    if find_spec("imblearn") is None or not real.x.shape[1]:
        return None
    from imblearn.over_sampling import SMOTE, SMOTEN, SMOTENC

    known = np.where(np.isnan(real.x).all(axis=0), 0.0, real.x)
    filled = np.where(np.isnan(known), np.where(categorical, MAX_CATEGORIES + 1, np.nanmedian(known, axis=0)), known)
    options: dict[str, Any] = {
        "sampling_strategy": {True: int(real.y.sum()) + added},
        "k_neighbors": min(NEIGHBOURS, int(real.y.sum()) - 1),
        "random_state": seed,
    }
    if categorical.all():
        method = SMOTEN(**options)
    else:
        method = SMOTENC(categorical.tolist(), **options) if categorical.any() else SMOTE(**options)
    made = np.asarray(method.fit_resample(filled, real.y)[0], dtype=np.float64)[len(real.y) :]
    return real.with_more(np.where(categorical & (made > MAX_CATEGORIES), np.nan, made))


# Measuring ----------------------------------------------------------------------------------------------------------


def _scores(rows: _Rows, x_test: Floats, categorical: Mask, iterations: int, seed: int) -> Floats:
    """Mean probability of the class by trees of several seeds, shape (tests,)."""
    fits = [
        learn(trees("classifier", seed=seed + k, iterations=iterations, categorical=categorical), rows.x, rows.y)
        for k in range(FITS)
    ]
    return np.asarray(np.mean([model.predict_proba(x_test)[:, 1] for model in fits], axis=0), dtype=np.float64)


def average_precision(truth: Mask, scores: Floats, weights: Floats | None = None) -> float:
    """Area under the steps of precision over recall; NaN without a row of the class.

    Args:
        truth: Whether each row is of the class, shape (n,).
        scores: Higher means more likely so, shape (n,).
        weights: How often each row counts, shape (n,); once where left out.

    """
    return _Ranking.of(truth, scores).average_precision(weights)


@dataclass(frozen=True)
class _Ranking:
    """Rows by falling score, sorted once for many weightings.

    Args:
        order: Row numbers, shape (n,).
        truth: Whether the row at each place is of the class, shape (n,).
        ends: Last place of every group of equal scores.

    """

    order: npt.NDArray[np.int64]
    truth: Mask
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, truth: Mask, scores: Floats) -> _Ranking:
        order = np.argsort(-scores, kind="stable")
        return cls(order, truth[order], np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1))

    def average_precision(self, weights: Floats | None = None) -> float:
        w = np.ones(len(self.order)) if weights is None else weights[self.order]
        found, taken = np.cumsum(w * self.truth)[self.ends], np.cumsum(w)[self.ends]
        if not found[-1]:
            return math.nan
        precision = found / np.maximum(taken, 1e-12)
        return float((np.diff(found, prepend=0.0) * precision).sum() / found[-1])


def _gains(truth: Mask, scores: Mapping[str, Floats], seed: int) -> dict[str, dict[str, float]]:
    """Gain over real rows alone and its 95 % interval, by the bootstrap over held-out rows (Efron, 1979)."""
    rankings = {name: _Ranking.of(truth, found) for name, found in scores.items()}
    rng, n = np.random.default_rng(seed), len(truth)
    draws = [np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(REPLICATES)]
    replicates = {name: np.array([r.average_precision(w) for w in draws]) for name, r in rankings.items()}
    gains = {}
    for name in scores.keys() - {"real"}:
        low, high = np.nanquantile(replicates[name] - replicates["real"], [0.025, 0.975])
        whole = rankings[name].average_precision() - rankings["real"].average_precision()
        gains[name] = {"gain": round(whole, 6), "low": round(float(low), 6), "high": round(float(high), 6)}
    return gains
