"""Still pictures of an evaluation, for places that run no script: an orchestrator's page, a mail, a chat.

SVG of a few kilobytes, on paper of its own so that it is read on a dark page too. Figures and column names alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from tabvae_core.evaluation.result import ColumnEvaluation, Evaluation

__all__ = ["association_picture", "column_picture"]

MAX_COLUMNS = 20
"""Columns shown, those that are furthest off: names below one another stay legible, and the file small."""
_PAPER, _INK, _SOFT, _LINE, _BAR, _FLOOR = "#ffffff", "#1b1f24", "#5b636e", "#dfe3e8", "#e0701a", "#2f86c9"
_ROW, _NAMES, _CHART, _EDGE = 20, 170, 320, 12
_LONGEST = 24


def column_picture(evaluation: Evaluation) -> str:
    """Draw the Jensen-Shannon distance of each column as a bar, with a mark at its floor; "" without any.

    Args:
        evaluation: Has a distance for the columns that are modelled; the 20 furthest from their floor are drawn.

    """
    measured = [column for column in evaluation.columns if column.jsd is not None]
    shown = sorted(measured, key=_beyond, reverse=True)[:MAX_COLUMNS]
    if not shown:
        return ""
    widest = max(0.1, *(max(column.jsd or 0.0, column.jsd_floor or 0.0) for column in shown))
    parts = []
    for row, column in enumerate(shown):
        y, width = _top(row), _CHART * (column.jsd or 0.0) / widest
        parts.append(_text(_NAMES - 8, y + 13, _short(column.name), anchor="end"))
        parts.append(_box(_NAMES, y + 3, width, 12, _BAR))
        parts.append(_text(_NAMES + width + 5, y + 13, f"{column.jsd:.3f}", colour=_SOFT))
        if column.jsd_floor is not None:
            parts.append(_box(_NAMES + _CHART * column.jsd_floor / widest - 1, y + 1, 2, 16, _FLOOR))
    title = "Distance of each column (Jensen-Shannon, 0 to 1); blue: two halves of real rows"
    return _picture(title + _of(len(shown), len(measured)), parts, _NAMES + _CHART + 60, _top(len(shown)))


def association_picture(evaluation: Evaluation) -> str:
    """Draw by how much the association of each pair of columns differs, the darker the more; "" without pairs.

    Args:
        evaluation: Has the matrices of association; the 20 columns with the largest differences are drawn.

    """
    pairs, size = evaluation.pairs, len(evaluation.pairs.columns)
    off = [[abs(pairs.real[i][j] - pairs.synthetic[i][j]) for j in range(size)] for i in range(size)]
    ranked = sorted(range(size), key=lambda i: max(off[i]), reverse=True)[:MAX_COLUMNS]
    shown = sorted(ranked)
    if len(shown) < 2:
        return ""
    parts = []
    for row, i in enumerate(shown):
        parts.append(_text(_NAMES - 8, _top(row) + 14, _short(pairs.columns[i]), anchor="end"))
        for place, j in enumerate(shown[:row]):
            shade = f'fill-opacity="{min(1.0, off[i][j]):.2f}"'
            hint = f"{pairs.columns[i]} and {pairs.columns[j]}: {off[i][j]:.2f}"
            parts.append(_box(_NAMES + place * _ROW, _top(row), _ROW - 1, _ROW - 1, _BAR, shade, hint))
        parts.append(_box(_NAMES + row * _ROW, _top(row), _ROW - 1, _ROW - 1, _LINE))
    largest = max(off[i][j] for i in shown for j in shown)
    title = f"Difference of association, real and synthetic (white 0, orange 1; largest here {largest:.2f})"
    width = max(_NAMES + len(shown) * _ROW + _EDGE, _NAMES + _CHART + 60)
    return _picture(title + _of(len(shown), size), parts, width, _top(len(shown)))


def _beyond(column: ColumnEvaluation) -> float:
    return (column.jsd or 0.0) - (column.jsd_floor or 0.0)


def _of(shown: int, total: int) -> str:
    return f"; the {shown} of {total} columns furthest off" if shown < total else ""


def _top(row: int) -> int:
    return 34 + row * _ROW


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _box(x: float, y: float, width: float, height: float, colour: str, more: str = "", hint: str = "") -> str:
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" {more}'.rstrip()
    return f"<rect {shape}>{inside}</rect>" if inside else f"<rect {shape}/>"


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _picture(title: str, parts: Sequence[str], width: float, height: float) -> str:
    size = f'width="{width:.0f}" height="{height + _EDGE:.0f}" viewBox="0 0 {width:.0f} {height + _EDGE:.0f}"'
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    paper = f'<rect width="100%" height="100%" rx="6" fill="{_PAPER}"/>'
    heading = f'<text x="{_EDGE}" y="20" fill="{_INK}" font-size="11">{escape(title)}</text>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>{paper}{heading}{"".join(parts)}</svg>'
