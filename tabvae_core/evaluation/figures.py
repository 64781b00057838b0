"""The report's pictures in Bokeh.

Real rows are always blue and filled, synthetic ones orange and dashed or hatched. Colours are of the same
strength on white and on near-black, and differ in lightness for colour-blind readers and for print. Text
that comes from tables is only ever canvas text or a tooltip's value, never HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tabvae_core.evaluation.charts import Bars, Density, Histogram, PairChart, Projection, format_value
from tabvae_core.evaluation.view import Floats, Unit

__all__ = [
    "MAX_LINES",
    "REAL",
    "SYNTHETIC",
    "bars_figure",
    "density_figure",
    "heatmap_figure",
    "histogram_figure",
    "lines_figure",
    "map_figure",
    "pair_figure",
    "projection_figures",
    "safe_text",
    "steps_figure",
    "trade_figure",
    "value_text",
    "whiskers_figure",
]

REAL = "#2f86c9"
SYNTHETIC = "#e0701a"
SYNTHETIC_DARK = "#a04400"
"""Dots on a synthetic shade."""
INK = "#7b828c"
"""Text and axes: readable on white and on near-black."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"

_FEW = 5
"""Cells of fewer real rows look alike."""


def safe_text(text: str, most: int = 28) -> str:
    """Shorten a label, and keep Bokeh from taking it for TeX, which it would fetch a renderer for."""
    text = " ".join(text.split()) or "(blank)"
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text.replace("$$", "$\u200b$").replace("\\(", "\\\u200b(").replace("\\[", "\\\u200b[")


def _figure(height: int, **options: Any) -> Any:
    from bokeh.plotting import figure

    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        output_backend="canvas",
        min_border_right=12,
        **options,
    )
    plot.xgrid.visible = False
    plot.ygrid.grid_line_color = INK
    plot.ygrid.grid_line_alpha = 0.18
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_line_color = INK
        axis.axis_line_alpha = 0.5
        axis.major_tick_line_color = None
        axis.minor_tick_line_color = None
        axis.major_label_text_color = INK
        axis.major_label_text_font = FONT
        axis.major_label_text_font_size = "11px"
        axis.axis_label_text_color = INK
        axis.axis_label_text_font = FONT
        axis.axis_label_text_font_size = "11px"
        axis.axis_label_text_font_style = "normal"
    return plot


def _range(start: float, end: float) -> Any:
    from bokeh.models import Range1d

    return Range1d(start=start, end=end)


def _hover(plot: Any, renderer: Any, tooltips: list[tuple[str, str]]) -> None:
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(renderers=[renderer], tooltips=tooltips, point_policy="follow_mouse"))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _times(unit: Unit) -> float:
    """Factor from a measure's unit to that of its axis: Bokeh counts time in milliseconds."""
    return 1.0 if unit in ("number", "duration") else 1000.0


def histogram_figure(chart: Histogram, *, height: int = 230) -> Any:
    """Overlay two histograms."""
    kind = "log" if chart.log else "datetime" if chart.unit in ("date", "datetime", "time") else "linear"
    plot = _overlay(height, kind, chart.edges * _times(chart.unit), chart.real, chart.synthetic, _ranges(chart))
    plot.xaxis[0].ticker.desired_num_ticks = 5
    if not chart.log:
        _number_axis(plot.xaxis[0], chart.unit, (chart.edges[0], chart.edges[-1]))
    return plot


def _overlay(height: int, kind: str, edges: Floats, real: Floats, synthetic: Floats, names: Sequence[str]) -> Any:
    """Steps of both tables over the same bins, whose names and shares a reader gets by hovering."""
    from bokeh.models import ColumnDataSource, NumeralTickFormatter

    top = 1.08 * float(max(real.max(initial=0), synthetic.max(initial=0))) or 1.0
    plot = _figure(height, x_axis_type=kind, y_range=_range(0, top), x_range=_range(edges[0], edges[-1]))
    plot.yaxis.formatter = NumeralTickFormatter(format="0.[00]%")
    plot.yaxis[0].ticker.desired_num_ticks = 4
    source = ColumnDataSource(
        {
            "left": edges[:-1],
            "right": edges[1:],
            "real": real,
            "top": np.full(len(real), top),
            "range": list(names),
            "real_text": [_percent(v) for v in real],
            "synthetic_text": [_percent(v) for v in synthetic],
        }
    )
    plot.quad(left="left", right="right", top="real", bottom=0, source=source, color=REAL, alpha=0.38, line_width=0)
    for shares, colour, dash in ((real, REAL, "solid"), (synthetic, SYNTHETIC, (5, 2))):
        x, y = np.repeat(edges, 2), np.concatenate([[0], np.repeat(shares, 2), [0]])
        plot.line(x, y, color=colour, line_width=1.2 if dash == "solid" else 2.2, line_dash=dash)
    target = plot.quad(left="left", right="right", top="top", bottom=0, source=source, alpha=0, hover_alpha=0.08)
    target.hover_glyph.fill_color = INK
    _hover(plot, target, [("value", "@range"), ("held-out", "@real_text"), ("synthetic", "@synthetic_text")])
    return plot


def steps_figure(chart: Bars, *, height: int = 170) -> Any:
    """Overlay ordered bars as steps: months, weekdays, hours."""
    from bokeh.models import FixedTicker

    n = len(chart.labels)
    plot = _overlay(height, "linear", np.arange(n + 1.0), chart.real, chart.synthetic, chart.labels)
    every = -(-n // 8)
    plot.xaxis[0].ticker = FixedTicker(ticks=[k + 0.5 for k in range(0, n, every)])
    plot.xaxis[0].major_label_overrides = {k + 0.5: chart.labels[k] for k in range(0, n, every)}
    return plot


def map_figure(cells: Density, points: Floats, limits: tuple[tuple[float, float], tuple[float, float]]) -> Any:
    """Synthetic rows as points on the density of held-out rows, on axes that mean nothing by themselves."""
    plot = _plane(limits, ("number", "number"), ("", ""), 380)
    _cells(plot, cells, REAL, who="held-out", strength=0.55)
    plot.scatter(*points.T, size=4, color=SYNTHETIC, alpha=0.7, line_width=0)
    for axis in (plot.xaxis, plot.yaxis):
        axis.visible = False
    plot.ygrid.visible = False
    return plot


def _number_axis(axis: Any, unit: Unit, limits: tuple[float, float]) -> None:
    from bokeh.models import DatetimeTickFormatter, FixedTicker, NumeralTickFormatter

    if unit == "time":
        axis.formatter = DatetimeTickFormatter(hours="%H:%M", hourmin="%H:%M", minutes="%H:%M", days="%H:%M")
    elif unit == "duration":
        ticks = np.linspace(*limits, 5)
        axis.ticker = FixedTicker(ticks=list(ticks))
        axis.major_label_overrides = {float(t): format_value(float(t), "duration") for t in ticks}
    elif unit == "number" and 1e4 <= max(abs(limits[0]), abs(limits[1])) < 1e15:
        axis.formatter = NumeralTickFormatter(format="0.[0]a")


def _ranges(chart: Histogram) -> list[str]:
    texts = [format_value(float(edge), chart.unit) for edge in chart.edges]
    inner = [f"{a} to {b}" for a, b in pairwise(texts)]
    if len(inner) > 1:
        inner[0], inner[-1] = f"below {texts[1]}", f"from {texts[-2]}"
    return inner


MAX_DRAWN = 10
"""Categories drawn; more are in the table below the picture."""


def bars_figure(chart: Bars, *, height: int = 230) -> Any:
    """Pairs of bars, one pair a category."""
    from bokeh.models import ColumnDataSource, FixedTicker, NumeralTickFormatter

    shown = _shown(chart, MAX_DRAWN if not chart.ordered else 2 * MAX_DRAWN)
    labels = [chart.labels[k] for k in shown]
    real, synthetic = chart.real[shown], chart.synthetic[shown]
    n = len(labels)
    y = np.arange(n)[::-1].astype(np.float64)
    right = 1.06 * float(max(real.max(initial=0), synthetic.max(initial=0))) or 1.0
    plot = _figure(height, x_range=_range(0, right), y_range=_range(min(-0.6, n - 5.4), n - 0.4))
    plot.xgrid.visible, plot.ygrid.visible = True, False
    plot.xgrid.grid_line_color, plot.xgrid.grid_line_alpha = INK, 0.18
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[00]%")
    plot.xaxis[0].ticker.desired_num_ticks = 4
    plot.yaxis.ticker = FixedTicker(ticks=list(y))
    plot.yaxis.major_label_overrides = {int(p): safe_text(label, 18) for p, label in zip(y, labels, strict=True)}
    source = ColumnDataSource(
        {
            "y": y,
            "upper": y + 0.2,
            "lower": y - 0.2,
            "real": real,
            "synthetic": synthetic,
            "right": np.full(n, right),
            "label": [safe_text(label, 60) for label in labels],
            "real_text": [_percent(v) for v in real],
            "synthetic_text": [_percent(v) for v in synthetic],
        }
    )
    plot.hbar(y="upper", height=0.38, right="real", source=source, color=REAL, alpha=0.85, line_width=0)
    plot.hbar(
        y="lower", height=0.38, right="synthetic", source=source, fill_color=SYNTHETIC, fill_alpha=0.28,
        line_color=SYNTHETIC, line_width=1.2, hatch_pattern="right_diagonal_line", hatch_color=SYNTHETIC,
        hatch_scale=9, hatch_weight=1.2,
    )  # fmt: skip
    target = plot.hbar(y="y", height=0.9, right="right", source=source, alpha=0, hover_alpha=0.08)
    target.hover_glyph.fill_color = INK
    _hover(plot, target, [("value", "@label"), ("held-out", "@real_text"), ("synthetic", "@synthetic_text")])
    return plot


def _shown(chart: Bars, most: int) -> list[int]:
    """The largest `most` bars, in the chart's order; what is called (other) or (null) stays."""
    weight = np.maximum(chart.real, chart.synthetic)
    special = [k for k, label in enumerate(chart.labels) if label in ("(other)", "(null)")]
    order = [int(k) for k in np.argsort(-weight, kind="stable") if int(k) not in special]
    return sorted([*order[: max(most - len(special), 1)], *special])


def value_text(value: float, unit: Unit | None) -> str:
    """A mean in its unit, or where there is none, a share."""
    if np.isnan(value):
        return "none"
    return _percent(value) if unit is None else format_value(value, unit)


_LINES = (
    (SYNTHETIC, "solid", "circle"),
    (REAL, "dashed", "square"),
    ("#009e73", "dotted", "triangle"),
    ("#b85c9e", "dotdash", "diamond"),
    (INK, "dashdot", "inverted_triangle"),
)
"""Colour, dash and mark of lines that are drawn together; the first alone where there is one."""
MAX_LINES = len(_LINES)


def lines_figure(
    x: Floats,
    lines: Sequence[Floats],
    names: Sequence[str],
    limits: tuple[float, float],
    unit: Unit | None,
    *,
    label: str = "",
    height: int = 190,
) -> Any:
    """Draw a few lines over shares, told apart by colour, dash and mark alike.

    Args:
        x: Shares in [0, 1], shape (n,).
        lines: At most five, shape (n,) each.
        names: Their names; a line by itself needs none and has no legend.
        limits: Of the upright axis.
        unit: What the lines count; None: shares.
        label: Name of the level axis.
        height: In pixels.

    """
    from bokeh.models import ColumnDataSource, NumeralTickFormatter
    from bokeh.models.annotations import Legend, LegendItem

    times = 1.0 if unit is None else _times(unit)
    kind = "datetime" if unit in ("date", "datetime", "time") else "linear"
    ends = _range(limits[0] * times, limits[1] * times)
    plot = _figure(height, x_range=_range(-0.02, 1.02), y_range=ends, y_axis_type=kind)
    plot.xaxis.formatter = NumeralTickFormatter(format="0%")
    plot.xaxis.axis_label = label or None
    plot.yaxis[0].ticker.desired_num_ticks = 4
    if unit is None:
        plot.yaxis.formatter = NumeralTickFormatter(format="0.[0]%")
    else:
        _number_axis(plot.yaxis[0], unit, limits)
    items = []
    for values, name, (colour, dash, mark) in zip(lines, names, _LINES, strict=False):
        texts = [value_text(v, unit) for v in values.tolist()]
        source = ColumnDataSource({"x": x, "y": values * times, "at": [_percent(v) for v in x], "text": texts})
        line = plot.line("x", "y", source=source, color=colour, line_width=2, line_dash=dash)
        marks = plot.scatter("x", "y", source=source, marker=mark, size=6, color=colour)
        _hover(plot, marks, [("", safe_text(name, 60)), ("at quantile", "@at"), ("value", "@text")])
        items.append(LegendItem(label=safe_text(name, 24), renderers=[line, marks]))
    if len(items) > 1:
        legend = Legend(
            items=items, orientation="horizontal", ncols=2, label_text_color=INK, label_text_font=FONT,
            label_text_font_size="11px", background_fill_color=None, border_line_color=None, location="left",
        )  # fmt: skip
        plot.add_layout(legend, "below")
        plot.height += 24 * (1 + len(items) // 3)
    return plot


def heatmap_figure(names: Sequence[str], matrix: Floats, *, limit: float, height: int = 380) -> Any:
    """A square of associations from -limit (green) over 0 (white) to limit (purple).

    Args:
        names: Columns, shape (c,).
        matrix: Shape (c, c).
        limit: Largest absolute value of the scale.
        height: In pixels.

    """
    from bokeh.models import ColumnDataSource, FixedTicker
    from bokeh.palettes import diverging_palette
    from bokeh.transform import linear_cmap

    n = len(names)
    row, column = (a.ravel() for a in np.indices((n, n)))
    plot = _figure(height, x_range=_range(-0.5, n - 0.5), y_range=_range(n - 0.5, -0.5))
    plot.ygrid.visible = False
    labels = [safe_text(name, 16) for name in names]
    for axis in (plot.xaxis, plot.yaxis):
        axis.ticker = FixedTicker(ticks=list(range(n)))
        axis.major_label_overrides = dict(enumerate(labels))
        axis.major_label_text_font_size = "11px" if n <= 20 else "8px"
        axis.axis_line_color = None
    plot.xaxis.major_label_orientation = 1.1
    source = ColumnDataSource(
        {
            "x": column,
            "y": row,
            "value": matrix.ravel(),
            "first": [labels[k] for k in row],
            "second": [labels[k] for k in column],
            "text": [f"{v:+.3f}" for v in matrix.ravel()],
        }
    )
    palette = diverging_palette(tuple(_GREENS), tuple(_PURPLES), 101)
    cells = plot.rect(
        x="x", y="y", width=0.96, height=0.96, source=source, line_width=0,
        fill_color=linear_cmap("value", palette, -limit, limit),
    )  # fmt: skip
    _hover(plot, cells, [("", "@first"), (" ", "@second"), ("association", "@text")])
    return plot


def _blend(first: tuple[int, int, int], second: tuple[int, int, int], n: int) -> list[str]:
    steps = np.linspace(np.array(first), np.array(second), n).round().astype(int)
    return ["#" + "".join(f"{channel:02x}" for channel in colour) for colour in steps]


_GREENS = [*_blend((15, 92, 46), (116, 184, 122), 51)[:-1], *_blend((116, 184, 122), (244, 244, 246), 51)]
_PURPLES = [*_blend((76, 24, 110), (160, 118, 190), 51)[:-1], *_blend((160, 118, 190), (244, 244, 246), 51)]


def _cells(plot: Any, cells: Density, colour: str, *, who: str, strength: float = 0.95) -> None:
    """Shade cells by the square root of their count."""
    from bokeh.models import ColumnDataSource

    if not len(cells.counts):
        return
    shown = np.maximum(cells.counts, _FEW)
    alpha = 0.1 + (strength - 0.1) * np.sqrt(shown / shown.max())
    source = ColumnDataSource(
        {
            "left": cells.x,
            "right": cells.x + cells.width,
            "bottom": cells.y,
            "top": cells.y + cells.height,
            "alpha": alpha if shown.max() > _FEW else np.full(len(shown), 0.3),
            "rows": [f"{c:,}" if c >= _FEW else f"fewer than {_FEW}" for c in cells.counts],
        }
    )
    drawn = plot.quad(
        left="left", right="right", bottom="bottom", top="top", source=source, fill_color=colour,
        fill_alpha="alpha", line_width=0,
    )  # fmt: skip
    _hover(plot, drawn, [(who, "@rows rows")])


def density_figure(
    cells: Density,
    points: Floats,
    limits: tuple[tuple[float, float], tuple[float, float]],
    units: tuple[Unit, Unit] = ("number", "number"),
    *,
    labels: tuple[str, str] = ("", ""),
    height: int = 240,
) -> Any:
    """Shade the held-out rows' density and draw synthetic rows as points on it.

    Args:
        cells: Held-out rows.
        points: Synthetic rows, shape (n, 2).
        limits: Of the two axes.
        units: Of the two axes.
        labels: Names of the two axes.
        height: In pixels.

    """
    plot = _plane(limits, units, labels, height)
    _cells(plot, cells, REAL, who="held-out")
    if len(points):
        x, y = points[:, 0] * _times(units[0]), points[:, 1] * _times(units[1])
        plot.scatter(x, y, size=2.4, color=SYNTHETIC, alpha=0.45, line_width=0)
    return plot


def pair_figure(chart: PairChart, *, height: int = 190) -> Any:
    """Two measures, synthetic rows on the density of held-out ones."""
    return density_figure(chart.real, chart.points, chart.limits, chart.units, height=height)


def trade_figure(
    names: Sequence[str], seconds: Sequence[float], aucs: Sequence[float], *, floor: float | None, height: int = 300
) -> Any:
    """Methods as points: time across, on a logarithmic axis, and AUC up; a line where real rows are.

    Args:
        names: Of the methods.
        seconds: To learn and draw.
        aucs: Of the real-or-synthetic test.
        floor: That of real rows.
        height: In pixels.

    """
    from bokeh.core.properties import value
    from bokeh.models import ColumnDataSource, NumeralTickFormatter

    known = np.maximum(np.asarray(seconds, dtype=np.float64), 0.1)
    low, high = min([0.5, *aucs]), max([0.52, *aucs])
    margin = 0.12 * (high - low)
    across = _range(float(known.min()) / 2, float(known.max()) * 2)
    # Names stand beside their points, on the side of the plot's middle: there is room on a narrow screen, too.
    late = known > np.sqrt(known.min() * known.max())
    plot = _figure(height, x_axis_type="log", x_range=across, y_range=_range(low - margin, high + margin))
    plot.xaxis.axis_label, plot.yaxis.axis_label = "seconds to learn and draw", "AUC (lower is better)"
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0.[0]")
    if floor is not None:
        plot.hspan(y=[floor], line_color=REAL, line_width=1.5)
    source = ColumnDataSource(
        {
            "x": known,
            "y": np.asarray(aucs, dtype=np.float64),
            "name": [safe_text(name) for name in names],
            "time": [f"{one:,.1f} s" for one in seconds],
            "auc": [f"{one:.3f}" for one in aucs],
            "align": np.where(late, "right", "left").tolist(),
            "offset": np.where(late, -9.0, 9.0),
        }
    )
    drawn = plot.scatter(
        "x", "y", source=source, size=11, fill_color=SYNTHETIC, fill_alpha=0.5, line_color=SYNTHETIC_DARK
    )
    look = {"text_color": INK, "text_font": value(FONT), "text_font_size": "12px", "y_offset": 6}
    plot.text(x="x", y="y", text="name", text_align="align", x_offset="offset", source=source, **look)
    _hover(plot, drawn, [("", "@name"), ("AUC", "@auc"), ("time", "@time")])
    return plot


def _plane(
    limits: tuple[tuple[float, float], tuple[float, float]],
    units: tuple[Unit, Unit],
    labels: tuple[str, str],
    height: int,
) -> Any:
    kinds = ["datetime" if unit in ("date", "datetime", "time") else "linear" for unit in units]
    ranges = [_range(low * _times(u), high * _times(u)) for (low, high), u in zip(limits, units, strict=True)]
    plot = _figure(height, x_range=ranges[0], y_range=ranges[1], x_axis_type=kinds[0], y_axis_type=kinds[1])
    plot.xaxis.axis_label, plot.yaxis.axis_label = (safe_text(label, 40) if label else None for label in labels)
    for axis, unit, limit in ((plot.xaxis[0], units[0], limits[0]), (plot.yaxis[0], units[1], limits[1])):
        axis.ticker.desired_num_ticks = 4
        if unit == "number":
            _number_axis(axis, unit, limit)
    return plot


def projection_figures(projected: Projection, *, height: int = 340) -> tuple[Any, Any]:
    """Two panels on the same axes: the held-out rows' density, and the synthetic rows as points."""
    labels = tuple(f"axis {k + 1} ({100 * share:.0f} % of the variance)" for k, share in enumerate(projected.explained))
    panels = [_plane(projected.limits, ("number", "number"), (labels[0], labels[1]), height) for _ in range(2)]
    _cells(panels[0], projected.real, REAL, who="held-out")
    _cells(panels[1], projected.synthetic, SYNTHETIC, who="synthetic", strength=0.7)
    if len(projected.points):
        panels[1].scatter(*projected.points.T, size=2.4, color=SYNTHETIC_DARK, alpha=0.7, line_width=0)
    return panels[0], panels[1]


Whisker = tuple[float, float, float]
"""A value, and the ends of its interval."""


def whiskers_figure(lines: Sequence[tuple[str, Whisker | None, Whisker | None]]) -> Any:
    """Draw intervals one below the other.

    Args:
        lines: A name, what was found in the whole (a dot), and in a part (a diamond); None: not measured.

    """
    from bokeh.models import ColumnDataSource, FixedTicker
    from bokeh.models.annotations import Span

    n = len(lines)
    ends = [end for _, *found in lines for one in found if one is not None for end in one[1:]]
    limits = (min([-0.1, *ends]) - 0.02, max([0.2, *ends]) + 0.02)
    plot = _figure(60 + 34 * n, x_range=_range(*limits), y_range=_range(-0.6, n - 0.4))
    plot.xgrid.visible, plot.ygrid.visible = True, False
    plot.xgrid.grid_line_color, plot.xgrid.grid_line_alpha = INK, 0.18
    plot.yaxis.ticker = FixedTicker(ticks=list(range(n)))
    plot.yaxis.major_label_overrides = {n - 1 - k: safe_text(name, 40) for k, (name, *_) in enumerate(lines)}
    plot.xaxis.axis_label = "advantage"
    plot.add_layout(Span(location=0, dimension="height", line_color=INK, line_dash="dashed", line_alpha=0.8))
    for part, (shift, mark, colour, fill) in enumerate(
        ((0.16, "circle", SYNTHETIC, 1.0), (-0.16, "diamond", INK, 0.0))
    ):
        drawn = [(n - 1 - k + shift, name, found[part]) for k, (name, *found) in enumerate(lines) if found[part]]
        source = ColumnDataSource(
            {
                "y": [y for y, _, _ in drawn],
                "value": [one[0] for _, _, one in drawn if one],
                "low": [one[1] for _, _, one in drawn if one],
                "high": [one[2] for _, _, one in drawn if one],
                "name": [safe_text(name, 60) for _, name, _ in drawn],
                "text": [f"{one[0]:.3f} ({one[1]:.3f} to {one[2]:.3f})" for _, _, one in drawn if one],
            }
        )
        plot.segment("low", "y", "high", "y", source=source, color=colour, line_width=2)
        dots = plot.scatter(
            "value", "y", source=source, marker=mark, size=9, line_color=colour, fill_color=colour, fill_alpha=fill
        )
        _hover(plot, dots, [("attack", "@name"), ("advantage", "@text")])
    return plot
