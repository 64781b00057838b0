"""One HTML file of methods side by side: the recommendation first, then every figure, then the same pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tabvae_core.evaluation.association import correlation, measure_matrix
from tabvae_core.evaluation.charts import (
    Bars,
    Projection,
    column_chart,
    most_related,
    pair_chart,
    projection,
    some_rows,
)
from tabvae_core.evaluation.page import Figures, percent, render, write_page
from tabvae_core.evaluation.recommendation import RULE, MethodResult, Recommendation
from tabvae_core.evaluation.report import metric_text
from tabvae_core.evaluation.result import ColumnEvaluation, Evaluation
from tabvae_core.evaluation.verdict import LABELS, is_close
from tabvae_core.evaluation.view import ColumnView, Side, TableView

__all__ = ["render_comparison"]

MAX_COLUMNS = 10
"""Columns drawn once a method, those with the largest errors."""
MAX_LISTED = 60
MAX_PAIRED = 3
POINTS = 500
CELLS = 24
"""Fewer than a report of one table has: every picture is there once a method."""
_FIGURES = ("c2st", "shape", "trend", "jsd", "copies", "utility", "nulls")
_SEED = 0

Views = Mapping[str, TableView]


def render_comparison(
    results: Sequence[MethodResult],
    recommendation: Recommendation,
    views: Views,
    *,
    title: str,
    subtitle: str,
    path: Path,
) -> Path:
    """Write the report as one self-contained HTML file.

    Real rows enter it as counts only, as in the report of one table.

    Args:
        results: What was measured.
        recommendation: What follows from it.
        views: By method that was measured: its sample beside the held-out rows (see `picture_view`).
        title: Heading.
        subtitle: One line below it.
        path: File to write; its folder is created.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written.

    """
    ranked = sorted(results, key=lambda r: (r.method != recommendation.method, r.auc is None, r.auc or 0.0))
    shown = [result for result in ranked if result.evaluation is not None]
    figures = Figures()
    context = {
        "title": title,
        "subtitle": subtitle,
        "seed": _SEED,
        "banner": _banner(recommendation),
        "heads": [(name, LABELS[name]) for name in _FIGURES if any(r.metric(name).value is not None for r in shown)],
        "methods": [_method_row(result, recommendation) for result in ranked],
        "floors": {name: _floor(name, shown) for name in _FIGURES},
        "trade": _trade(figures, shown),
        "telling": [(result.method, _evaluation(result).telling[:5]) for result in shown],
        "names": [result.method for result in shown],
        "errors": _errors(shown),
        "columns": _columns(figures, shown, views),
        "heatmaps": _heatmaps(figures, shown),
        "relations": _relations(shown),
        "projections": _projections(figures, shown, views),
        "pairs": _pairs(figures, shown, views),
        "notes": list(dict.fromkeys(note for result in shown for note in _evaluation(result).notes)),
    }
    return write_page(render("comparison.html", figures, context), path)


def _banner(recommendation: Recommendation) -> dict[str, Any]:
    why, *more = recommendation.reasons
    name = recommendation.method
    return {
        "state": "measured" if name is None else "accepted",
        "head": "No recommendation" if name is None else f"Recommended: {name}",
        "why": why,
        "failures": more,
        "more": 0,
        "sentence": RULE,
    }


def _evaluation(result: MethodResult) -> Evaluation:
    assert result.evaluation is not None
    return result.evaluation


def _method_row(result: MethodResult, recommendation: Recommendation) -> dict[str, Any]:
    figures = {name: result.metric(name) for name in _FIGURES}
    rate = None if not result.sample_seconds else (result.sample_rows or 0) / result.sample_seconds
    return {
        "name": result.method,
        "failed": result.failed,
        "recommended": result.method == recommendation.method,
        "faster": result.method == recommendation.faster,
        "limited": "max_seconds" in result.stopped_by,
        "figures": {
            name: {"value": metric_text(name, metric.value), "close": is_close(name, metric)}
            for name, metric in figures.items()
        },
        "fit": None if result.fit_seconds is None else f"{result.fit_seconds:,.1f} s",
        "rate": None if rate is None else f"{rate:,.0f}",
        "size": None if result.model_bytes is None else _size(result.model_bytes),
        "peak": None if result.peak_mib is None else f"{result.peak_mib:,} MiB",
    }


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _floor(name: str, shown: Sequence[MethodResult]) -> str:
    floor = next((r.metric(name).floor for r in shown if r.metric(name).floor is not None), None)
    return metric_text(name, floor)


def _trade(figures: Figures, shown: Sequence[MethodResult]) -> int | None:
    from tabvae_core.evaluation.figures import trade_figure

    known = [result for result in shown if result.auc is not None]
    if len(known) < 2:
        return None
    floor = known[0].metric("c2st").floor
    aucs = [result.auc or 0.5 for result in known]
    return figures.add(trade_figure([r.method for r in known], [r.seconds for r in known], aucs, floor=floor))


def _by_error(shown: Sequence[MethodResult]) -> list[str]:
    """Names of the counted columns, those with the largest mean error over the methods first."""
    errors: dict[str, list[float]] = {}
    for result in shown:
        for column in _evaluation(result).columns:
            if column.modelled:
                errors.setdefault(column.name, []).append(column.shape or 0.0)
    return sorted(errors, key=lambda name: (-float(np.mean(errors[name])), name))


def _errors(shown: Sequence[MethodResult]) -> list[dict[str, Any]]:
    """Shape errors of every column by method, with the length of the bar behind each."""
    of = [{column.name: column for column in _evaluation(result).columns} for result in shown]
    return [_error_row(name, [columns[name] for columns in of]) for name in _by_error(shown)[:MAX_LISTED]]


def _error_row(name: str, found: Sequence[ColumnEvaluation]) -> dict[str, Any]:
    cells: list[dict[str, Any]] = [{"text": percent(c.shape), "bar": round(c.shape or 0.0)} for c in found]
    best = min((c.shape for c in found if c.shape is not None), default=None)
    for cell, column in zip(cells, found, strict=True):
        cell["best"] = len(found) > 1 and column.shape is not None and column.shape == best
    return {"name": name, "kind": found[0].kind.value, "floor": percent(found[0].shape_floor), "cells": cells}


def _columns(figures: Figures, shown: Sequence[MethodResult], views: Views) -> list[dict[str, Any]]:
    of = {method: {column.name: column for column in view.columns} for method, view in views.items()}
    return [
        {
            "name": name,
            "cells": [(r.method, figures.add(_column_figure(of[r.method][name]))) for r in shown],
        }
        for name in _by_error(shown)[:MAX_COLUMNS]
    ]


def _column_figure(column: ColumnView) -> Any:
    from tabvae_core.evaluation.figures import bars_figure, histogram_figure

    chart = column_chart(column)
    return bars_figure(chart, height=190) if isinstance(chart, Bars) else histogram_figure(chart, height=190)


def _heatmaps(figures: Figures, shown: Sequence[MethodResult]) -> dict[str, Any] | None:
    """The association of held-out rows once, and what each method adds to it or takes away."""
    from tabvae_core.evaluation.figures import heatmap_figure

    pairs = {result.method: _evaluation(result).pairs for result in shown}
    able = {method: one for method, one in pairs.items() if len(one.columns) > 1}
    if not able:
        return None
    first = next(iter(able.values()))
    differences = {method: np.array(one.synthetic) - np.array(one.real) for method, one in able.items()}
    largest = max(float(np.abs(difference).max()) for difference in differences.values())
    limit = max(0.1, float(np.ceil(largest * 20) / 20))
    height = 300 + 4 * len(first.columns)
    real = figures.add(heatmap_figure(first.columns, np.array(first.real), limit=1.0, height=height))
    cells = [
        (method, figures.add(heatmap_figure(able[method].columns, difference, limit=limit, height=height)))
        for method, difference in differences.items()
    ]
    return {"real": real, "cells": cells, "limit": limit}


def _relations(shown: Sequence[MethodResult]) -> list[dict[str, Any]]:
    """Exact relations, and the share of rows that keep each, by method."""
    kept = [{relation.formula: relation for relation in _evaluation(result).relations} for result in shown]
    formulas = list(dict.fromkeys(formula for found in kept for formula in found))
    rows = []
    for formula in formulas:
        found = [relations.get(formula) for relations in kept]
        real = next(relation.real for relation in found if relation is not None)
        rows.append(
            {"formula": formula, "real": real, "shares": [None if one is None else one.synthetic for one in found]}
        )
    return rows


def _projections(figures: Figures, shown: Sequence[MethodResult], views: Views) -> dict[str, Any] | None:
    """All samples on the main axes of the held-out rows, in one frame."""
    from tabvae_core.evaluation.figures import projection_figures

    found = {r.method: p for r in shown if (p := projection(views[r.method], seed=_SEED)) is not None}
    if not found:
        return None
    frame = _frame(list(found.values()))
    drawn = {method: projection(views[method], seed=_SEED, frame=frame, points=POINTS, cells=CELLS) for method in found}
    panels = {method: projection_figures(one, height=280) for method, one in drawn.items() if one is not None}
    real = next(iter(panels.values()))[0]
    return {"real": figures.add(real), "cells": [(method, figures.add(own)) for method, (_, own) in panels.items()]}


def _frame(found: Sequence[Projection]) -> Any:
    return tuple((min(p.limits[k][0] for p in found), max(p.limits[k][1] for p in found)) for k in (0, 1))


def _pairs(figures: Figures, shown: Sequence[MethodResult], views: Views) -> list[dict[str, Any]]:
    """The most related measures, two by two."""
    from tabvae_core.evaluation.figures import pair_figure

    if not shown:
        return []
    first = views[shown[0].method]
    real = correlation(measure_matrix(first.columns, Side.HOLDOUT))
    chosen = most_related(first, real, MAX_PAIRED)
    able = [(chosen[i], chosen[j]) for i in range(len(chosen)) for j in range(i)]
    shares = {r.method: correlation(measure_matrix(views[r.method].columns, Side.SYNTHETIC)) for r in shown}

    def cell(method: str, across: int, up: int) -> tuple[str, float, int]:
        columns, rows = views[method].columns, some_rows(views[method], POINTS, _SEED)
        chart = pair_chart(columns[across], columns[up], rows, cells=CELLS)
        return method, float(shares[method][up, across]), figures.add(pair_figure(chart))

    return [
        {
            "up": first.columns[up].name,
            "across": first.columns[across].name,
            "real": float(real[up, across]),
            "cells": [cell(result.method, across, up) for result in shown],
        }
        for up, across in able
    ]
