"""The picture of a traversal: one HTML file that shows what each axis of a latent space does to the columns.

Nothing in it is of a real row: what moves are means and shares of drawn rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tabvae_core.evaluation.figures import MAX_LINES, lines_figure, value_text
from tabvae_core.evaluation.page import Figures, render, write_page
from tabvae_core.evaluation.view import Unit
from tabvae_core.latent import AxisMoves, ColumnMoves, Traversal

__all__ = ["render_traversal"]

MAX_CHARTS = 6
"""Columns drawn for an axis: those that it moves most."""
_FINEST = 0.25
"""Half of a column's scale at the least, in standard deviations of the column."""


def render_traversal(traversal: Traversal, *, title: str, subtitle: str, path: Path) -> Path:
    """Draw a traversal as one self-contained HTML file, which opens offline, in light and dark.

    Args:
        traversal: What `traverse` found.
        title: Heading.
        subtitle: One line below it.
        path: File to write; its folder is created.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written.

    """
    page = _Page(traversal, _limits(traversal))
    context = {
        "title": title,
        "subtitle": subtitle,
        "traversal": traversal,
        "overview": _overview(traversal),
        "axes": [page.axis(axis) for axis in traversal.axes],
    }
    return write_page(render("traversal.html", page.figures, context), path)


def _overview(traversal: Traversal) -> list[dict[str, Any]]:
    """Effects of all axes on each column, the column that is moved most first."""
    effects: dict[str, list[float]] = {}
    for axis in traversal.axes:
        for column in axis.columns:
            effects.setdefault(column.name, []).append(column.effect)
    ordered = sorted(effects, key=lambda name: (-max(effects[name]), name))
    return [{"name": name, "effects": effects[name]} for name in ordered]


def _limits(traversal: Traversal) -> dict[str, tuple[float, float]]:
    """One scale a column, whatever the axis, and no finer than its rows are apart: what looks flat is not moved."""
    ends: dict[str, tuple[float, float]] = {}
    for axis in traversal.axes:
        for column in axis.columns:
            drawn = column.values if column.labels is None else column.values[:, _shown(column)]
            known = drawn[~np.isnan(drawn)]
            if len(known):
                middle, least = (float(known.min()) + float(known.max())) / 2, _FINEST * column.spread
                low, high = min(float(known.min()), middle - least), max(float(known.max()), middle + least)
                before = ends.get(column.name, (low, high))
                ends[column.name] = min(low, before[0]), max(high, before[1])
    margins = {name: 0.05 * (high - low) or 0.5 for name, (low, high) in ends.items()}
    return {name: (low - margins[name], high + margins[name]) for name, (low, high) in ends.items()}


def _shown(column: ColumnMoves) -> list[int]:
    """Categories drawn: those whose shares move most, in the column's order."""
    assert column.labels is not None
    reach = np.ptp(column.values, axis=0)
    return sorted(np.argsort(-reach, kind="stable")[:MAX_LINES].tolist())


@dataclass
class _Page:
    """Figures are gathered while cards are made, and embedded all at once."""

    traversal: Traversal
    limits: dict[str, tuple[float, float]]
    figures: Figures = field(default_factory=Figures)

    def axis(self, axis: AxisMoves) -> dict[str, Any]:
        """One axis with its cards."""
        drawn = axis.columns[:MAX_CHARTS]
        rest = axis.columns[MAX_CHARTS:]
        return {
            "axis": axis,
            "cards": [self._card(axis, column) for column in drawn],
            "rest": len(rest),
            "most": rest[0].effect if rest else 0.0,
        }

    def _card(self, axis: AxisMoves, column: ColumnMoves) -> dict[str, Any]:
        shown = [0] if column.labels is None else _shown(column)
        lines = column.values.reshape(len(axis.z), -1)[:, shown].T
        names = [column.name if column.labels is None else column.labels[k] for k in shown]
        unit: Unit | None = column.unit if column.labels is None else None
        limits = self.limits.get(column.name, (0.0, 1.0))
        figure = lines_figure(self.traversal.shares, list(lines), names, limits, unit, label="quantile of the prior")
        heads = ["mean"] if column.labels is None else names
        return {
            "column": column,
            "place": self.figures.add(figure),
            "heads": heads,
            "rows": [
                (f"{share:.0%}", f"{z:+.2f}", [value_text(value, unit) for value in values])
                for share, z, values in zip(self.traversal.shares, axis.z, lines.T.tolist(), strict=True)
            ],
            "hidden": 0 if column.labels is None else len(column.labels) - len(shown),
            "said": "; ".join(
                f"{head} {value_text(float(line[0]), unit)} to {value_text(float(line[-1]), unit)}"
                for head, line in zip(heads, lines, strict=True)
            ),
        }
