"""One HTML file that shows how true a synthetic table is.

It opens offline, on a phone, in print, in light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tabvae_core.errors import StorageError
from tabvae_core.evaluation.association import correlation
from tabvae_core.evaluation.charts import (
    POINTS,
    Bars,
    Histogram,
    column_chart,
    density,
    most_related,
    plot_limits,
    projection,
)
from tabvae_core.evaluation.classes import at_equal_shares
from tabvae_core.evaluation.result import ColumnEvaluation, Evaluation, Metric
from tabvae_core.evaluation.verdict import LABELS, is_close
from tabvae_core.evaluation.view import ColumnView, Side, TableView, modelled, sampled, table_view
from tabvae_core.references import GateResult
from tabvae_core.schema import TableSchema

__all__ = ["render_report"]

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
    tables = {side: sampled(table, evaluation.max_rows, evaluation.seed) for side, table in tables.items()}
    page = _Page(evaluation, table_view(tables, modelled(schema)))
    html = _render(page, title=title, subtitle=subtitle, gates=gates)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"the report {path} cannot be written: {error.strerror or error.__class__.__name__}",
            hint="choose a folder that exists and can be written",
        ) from None
    return path


@dataclass
class _Page:
    """What the template shows. Figures are gathered while sections are built and embedded all at once."""

    evaluation: Evaluation
    view: TableView
    figures: list[Any] = field(default_factory=list)

    def add(self, figure: Any) -> int:
        """Keep a figure and name its place on the page."""
        self.figures.append(figure)
        return len(self.figures) - 1

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


def _render(page: _Page, *, title: str, subtitle: str, gates: Sequence[GateResult]) -> str:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, number=_number, share=_share)
    template = environment.from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    context = {
        "title": title,
        "subtitle": subtitle,
        "evaluation": page.evaluation,
        "banner": _banner(page.evaluation, gates),
        "gates": sorted(gates, key=lambda gate: gate.passed),
        "metrics": _metric_rows(page.evaluation),
        "telling": page.evaluation.telling,
        "gain": page.evaluation.augmentation,
        "columns": _column_cards(page),
        "undrawn": max(0, len(page.by_error) - MAX_CHARTS),
        "heatmaps": _heatmaps(page),
        "worst": page.evaluation.pairs.worst[:10],
        "projection": _projection(page),
        "pairs": _pair_plot(page),
        "left_out": [column for column in page.evaluation.columns if not column.modelled],
    }
    script, places, library = _embed(page.figures)
    return template.render(**context, places=places, script=script, library=library)


def _embed(figures: Sequence[Any]) -> tuple[Any, list[Any], Any]:
    """Bokeh's core library and the figures, inline: the page asks the network for nothing."""
    from bokeh.document import Document
    from bokeh.embed import components
    from bokeh.resources import Resources
    from markupsafe import Markup

    if not figures:
        return Markup(""), [], Markup("")
    document = Document()
    with document.models.freeze():  # or every figure makes Bokeh walk through all those before it
        for figure in figures:
            document.add_root(figure)
    script, places = components(tuple(figures))
    library = Resources(mode="inline", components=["bokeh"]).render_js()
    return Markup(script), [Markup(place) for place in places], Markup(library)


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f} %"


def _share(value: float | None) -> str:
    """A share in [0, 1] as percent; the smallest ones are not rounded to nothing."""
    if value is None:
        return "–"
    return "< 0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


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
            "value": _metric_text(name, metric.value),
            "floor": _metric_text(name, metric.floor),
            "close": is_close(name, metric),
        }
        for name, metric in evaluation.metrics.items()
    ]


def _metric_text(name: str, value: float | None) -> str:
    return _percent(value) if name in _PERCENT else _number(value)


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
    matrices = [_measures(page.view, side) for side in (Side.HOLDOUT, Side.SYNTHETIC)]
    real, synthetic = (correlation(matrix) for matrix in matrices)
    chosen = most_related(page.view, real)
    if not chosen:
        return None
    rng = np.random.default_rng(page.evaluation.seed)
    points = np.sort(rng.permutation(len(matrices[1]))[:POINTS])
    cells: list[dict[str, Any]] = []
    for i in chosen:
        for j in chosen:
            cell: dict[str, Any] = {"first": page.view.columns[i].name, "second": page.view.columns[j].name}
            if i == j:
                cell |= {"kind": "diagonal"} | _diagonal(page, page.view.columns[i])
            elif i > j:
                plot = _pair(page.view.columns[j], page.view.columns[i], points)
                cell |= {"kind": "pair", "place": page.add(plot)}
            else:
                cell |= {"kind": "numbers", "real": float(real[i, j]), "synthetic": float(synthetic[i, j])}
            cells.append(cell)
    return {"cells": cells, "size": len(chosen)}


def _measures(view: TableView, side: Side) -> Any:
    matrix = view.matrix(side)
    matrix[:, [not column.is_measure for column in view.columns]] = np.nan
    return matrix


def _diagonal(page: _Page, column: ColumnView) -> dict[str, Any]:
    from tabvae_core.evaluation.figures import bars_figure, histogram_figure

    chart = column_chart(column)
    if isinstance(chart, Bars):
        return {"place": page.add(bars_figure(chart, height=190)), "spikes": ()}
    return {"place": page.add(histogram_figure(chart, height=190)), "spikes": chart.spikes}


def _pair(across: ColumnView, up: ColumnView, points: Any) -> Any:
    from tabvae_core.evaluation.figures import density_figure

    real, synthetic = (
        np.column_stack([across.values[side], up.values[side]]) for side in (Side.HOLDOUT, Side.SYNTHETIC)
    )
    synthetic = synthetic[points]
    real, synthetic = (rows[~np.isnan(rows).any(axis=1)] for rows in (real, synthetic))
    limits = (plot_limits(across.values[Side.HOLDOUT]), plot_limits(up.values[Side.HOLDOUT]))
    inside = np.all([(synthetic[:, k] >= limits[k][0]) & (synthetic[:, k] <= limits[k][1]) for k in (0, 1)], axis=0)
    cells = density(real[:, 0], real[:, 1], limits)
    return density_figure(cells, synthetic[inside], limits, (across.unit, up.unit), height=190)
