"""One HTML file that shows how true a synthetic table is.

It opens offline, on a phone, in print, in light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tabvae_core.evaluation.association import correlation, measure_matrix
from tabvae_core.evaluation.attack_view import attack_context
from tabvae_core.evaluation.calendars import calendar
from tabvae_core.evaluation.charts import (
    POINTS,
    Bars,
    Histogram,
    column_chart,
    most_related,
    null_bars,
    pair_chart,
    projection,
    some_rows,
)
from tabvae_core.evaluation.classes import at_equal_shares
from tabvae_core.evaluation.neighbours import neighbour_map
from tabvae_core.evaluation.page import Figures, number, percent, render, write_page
from tabvae_core.evaluation.result import ColumnEvaluation, Evaluation, Metric
from tabvae_core.evaluation.verdict import LABELS, is_close
from tabvae_core.evaluation.view import ColumnView, Side, TableView, picture_view
from tabvae_core.references import GateResult
from tabvae_core.schema import TableSchema

__all__ = ["metric_text", "render_report"]

MAX_CHARTS = 60
"""Columns drawn; of wider tables those with the largest errors, the others stand in the table alone."""

_MEANING = {
    "shape": "Does each column have the right distribution? Mean over columns: KS statistic of numbers and "
    "times, total variation of categories.",
    "trend": "Do columns go together in the right way? Mean over pairs: half the difference of correlations, "
    "or total variation of the pair's two-way table.",
    "jsd": "The same question as column shapes, as Jensen-Shannon distance (0 equal, 1 disjoint). Mean over columns.",
    "c2st": "Can boosted trees tell a synthetic row from a held-out one? AUC; 0.5 is guessing, 1 is always.",
    "utility": "Do trees learned on synthetic rows predict {target} in held-out rows as well as trees "
    "learned on real rows? AUC, or R² of a number.",
    "copies": "Synthetic rows equal to a training row in every counted column; the floor is held-out rows that are.",
    "nulls": "Are as many cells empty as should be? Mean difference of the columns' null shares.",
}

_PERCENT = frozenset({"shape", "trend", "copies", "nulls"})


def render_report(
    evaluation: Evaluation,
    holdout: pa.Table,
    synthetic: pa.Table,
    schema: TableSchema,
    *,
    title: str,
    subtitle: str,
    gates: Sequence[GateResult] = (),
    path: Path,
) -> Path:
    """Write the report as one self-contained HTML file.

    Real rows enter it as counts only: histograms, densities, and categories of at least five held-out rows.

    Args:
        evaluation: What `evaluate` found for these tables.
        holdout: Held-out real rows.
        synthetic: Synthetic rows.
        schema: The columns and their kinds.
        title: Heading.
        subtitle: One line below it: version, date, model.
        gates: Verdicts of the gates; with none, the table was measured but neither accepted nor refused.
        path: File to write; its folder is created.

    Returns:
        The path.

    Raises:
        DataError: A table does not fit the schema.
        StorageError: The file cannot be written.

    """
    tables = {Side.HOLDOUT: holdout, Side.SYNTHETIC: synthetic}
    if evaluation.balanced is not None:
        tables, _ = at_equal_shares(tables, schema.column(evaluation.balanced), evaluation.seed)
    view = picture_view(
        tables[Side.HOLDOUT], tables[Side.SYNTHETIC], schema, max_rows=evaluation.max_rows, seed=evaluation.seed
    )
    page = _Page(evaluation, view)
    context = _context(page, title=title, subtitle=subtitle, gates=gates)
    return write_page(render("report.html", page.figures, context), path)


@dataclass
class _Page:
    """What the template shows. Figures are gathered while sections are built and embedded all at once."""

    evaluation: Evaluation
    view: TableView
    figures: Figures = field(default_factory=Figures)

    def add(self, figure: Any) -> int:
        """Keep a figure and name its place on the page."""
        return self.figures.add(figure)

    @cached_property
    def charts(self) -> dict[str, Histogram | Bars]:
        """Pictures of the drawn columns, by name."""
        drawn = {column.name for column in self.by_error[:MAX_CHARTS]}
        return {column.name: column_chart(column) for column in self.view.columns if column.name in drawn}

    @cached_property
    def by_error(self) -> list[ColumnEvaluation]:
        """Counted columns, the largest error first."""
        counted = [column for column in self.evaluation.columns if column.modelled]
        return sorted(counted, key=lambda c: (-(c.shape or 0.0), c.name))


def _context(page: _Page, *, title: str, subtitle: str, gates: Sequence[GateResult]) -> dict[str, Any]:
    return {
        "title": title,
        "subtitle": subtitle,
        "seed": page.evaluation.seed,
        "evaluation": page.evaluation,
        "banner": _banner(page.evaluation, gates),
        "gates": sorted(gates, key=lambda gate: gate.passed),
        "metrics": _metric_rows(page.evaluation),
        "telling": page.evaluation.telling,
        "gain": page.evaluation.augmentation,
        "attacks": attack_context(page.evaluation.privacy, gates, page.figures),
        "columns": _column_cards(page),
        "undrawn": max(0, len(page.by_error) - MAX_CHARTS),
        "calendars": _calendars(page),
        "nulls": _nulls(page),
        "heatmaps": _heatmaps(page),
        "worst": page.evaluation.pairs.worst[:10],
        "relations": page.evaluation.relations,
        "projection": _projection(page),
        "neighbours": _neighbours(page),
        "pairs": _pair_plot(page),
        "left_out": [column for column in page.evaluation.columns if not column.modelled],
    }


def _banner(evaluation: Evaluation, gates: Sequence[GateResult]) -> dict[str, Any]:
    """Accepted or refused, and why, in words."""
    failed = [gate for gate in gates if not gate.passed]
    checks = "check" if len(gates) == 1 else "checks"
    if not gates:
        state, head, why = (
            "measured",
            "Measured",
            "No gates were set, so the table is neither accepted nor refused.",
        )
    elif failed:
        state, head = "refused", "Refused"
        why = f"{len(failed)} of {len(gates)} {checks} did not pass. The table is not to be published."
    else:
        state, head = "accepted", "Accepted"
        why = "The one check passed." if len(gates) == 1 else f"All {len(gates)} checks passed."
    return {
        "state": state,
        "head": head,
        "why": why,
        "failures": [_gate_line(gate) for gate in failed[:10]],
        "more": max(0, len(failed) - 10),
        "sentence": evaluation.verdict.sentence,
    }


def _gate_line(gate: GateResult) -> str:
    where = f" of column {gate.column}" if gate.column else ""
    if gate.detail:
        return f"{gate.name}{where}: {gate.detail}"
    if gate.value is not None and gate.limit is not None:
        return f"{gate.name}{where}: {gate.value:.4g}, where {gate.limit:.4g} is allowed"
    return f"{gate.name}{where}"


def _metric_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "name": LABELS.get(name, name),
            "key": name,
            "meaning": _MEANING.get(name, "").format(target=evaluation.target_column or "the target"),
            "value": metric_text(name, metric.value),
            "floor": metric_text(name, metric.floor),
            "close": is_close(name, metric),
        }
        for name, metric in evaluation.metrics.items()
    ]


def metric_text(name: str, value: float | None) -> str:
    """Write a figure in its own unit."""
    return percent(value) if name in _PERCENT else number(value)


def _column_cards(page: _Page) -> list[dict[str, Any]]:
    return [_column_card(page, column) for column in page.by_error[:MAX_CHARTS]]


def _column_card(page: _Page, column: ColumnEvaluation) -> dict[str, Any]:
    from tabvae_core.evaluation.figures import MAX_DRAWN, bars_figure, histogram_figure

    chart = page.charts[column.name]
    card: dict[str, Any] = {
        "figures": column,
        "close": is_close("shape", Metric(value=column.shape, floor=column.shape_floor)),
    }
    if isinstance(chart, Histogram):
        return card | {
            "place": page.add(histogram_figure(chart)),
            "spikes": chart.spikes,
            "bars": (),
            "drawn": 0,
        }
    return card | {
        "place": page.add(bars_figure(chart)),
        "spikes": (),
        "bars": list(zip(chart.labels, chart.real, chart.synthetic, strict=True)),
        "hidden": chart.hidden,
        "drawn": 2 * MAX_DRAWN if chart.ordered else MAX_DRAWN,
    }


MAX_CALENDARS = 8
"""Columns whose calendars are drawn, those with the largest errors."""
MAX_NULLS = 10


def _calendars(page: _Page) -> list[dict[str, Any]]:
    from tabvae_core.evaluation.figures import steps_figure

    views = {column.name: column for column in page.view.columns}
    found = [(column.name, calendar(views[column.name])) for column in page.by_error]
    return [
        {"name": name, "parts": [(part.title, page.add(steps_figure(part.bars))) for part in parts]}
        for name, parts in [pair for pair in found if pair[1]][:MAX_CALENDARS]
    ]


def _nulls(page: _Page) -> dict[str, Any] | None:
    from tabvae_core.evaluation.figures import bars_figure

    chart = null_bars(page.view)
    if chart is None:
        return None
    drawn = Bars(chart.labels[:MAX_NULLS], chart.real[:MAX_NULLS], chart.synthetic[:MAX_NULLS])
    trained = {column.name: column.nulls_train for column in page.evaluation.columns}
    rows = [
        (name, real, synthetic, trained.get(name))
        for name, real, synthetic in zip(chart.labels, chart.real, chart.synthetic, strict=True)
    ]
    return {"place": page.add(bars_figure(drawn, height=90 + 26 * len(drawn.labels))), "rows": rows}


def _neighbours(page: _Page) -> dict[str, Any] | None:
    from tabvae_core.evaluation.figures import map_figure

    found = neighbour_map(page.view, seed=page.evaluation.seed)
    if found is None:
        return None
    place = page.add(map_figure(found.real, found.points, found.limits))
    return {"place": place, "mixing": found.mixing, "rows": found.rows}


def _heatmaps(page: _Page) -> dict[str, Any] | None:
    from tabvae_core.evaluation.figures import heatmap_figure

    pairs = page.evaluation.pairs
    if len(pairs.columns) < 2:
        return None
    real, synthetic = np.array(pairs.real), np.array(pairs.synthetic)
    difference = synthetic - real
    limit = max(0.1, float(np.ceil(np.abs(difference).max() * 20) / 20))
    height = 330 + 4 * len(pairs.columns)
    return {
        "real": page.add(heatmap_figure(pairs.columns, real, limit=1.0, height=height)),
        "synthetic": page.add(heatmap_figure(pairs.columns, synthetic, limit=1.0, height=height)),
        "difference": page.add(heatmap_figure(pairs.columns, difference, limit=limit, height=height)),
        "limit": limit,
        "columns": len(pairs.columns),
        "all": len(page.view.columns),
    }


def _projection(page: _Page) -> dict[str, Any] | None:
    from tabvae_core.evaluation.figures import projection_figures

    projected = projection(page.view, seed=page.evaluation.seed)
    if projected is None:
        return None
    real, synthetic = projection_figures(projected)
    return {"real": page.add(real), "synthetic": page.add(synthetic), "points": len(projected.points)}


def _pair_plot(page: _Page) -> dict[str, Any] | None:
    """A lower triangle of densities with points, histograms on the diagonal, correlations above it."""
    from tabvae_core.evaluation.figures import pair_figure

    real, synthetic = (correlation(measure_matrix(page.view.columns, s)) for s in (Side.HOLDOUT, Side.SYNTHETIC))
    chosen = most_related(page.view, real)
    if not chosen:
        return None
    points = some_rows(page.view, POINTS, page.evaluation.seed)
    cells: list[dict[str, Any]] = []
    for i in chosen:
        for j in chosen:
            cell: dict[str, Any] = {"first": page.view.columns[i].name, "second": page.view.columns[j].name}
            if i == j:
                cell |= {"kind": "diagonal"} | _diagonal(page, page.view.columns[i])
            elif i > j:
                chart = pair_chart(page.view.columns[j], page.view.columns[i], points)
                cell |= {"kind": "pair", "place": page.add(pair_figure(chart))}
            else:
                cell |= {"kind": "numbers", "real": float(real[i, j]), "synthetic": float(synthetic[i, j])}
            cells.append(cell)
    return {"cells": cells, "size": len(chosen)}


def _diagonal(page: _Page, column: ColumnView) -> dict[str, Any]:
    from tabvae_core.evaluation.figures import bars_figure, histogram_figure

    chart = column_chart(column)
    if isinstance(chart, Bars):
        return {"place": page.add(bars_figure(chart, height=190)), "spikes": ()}
    return {"place": page.add(histogram_figure(chart, height=190)), "spikes": chart.spikes}
