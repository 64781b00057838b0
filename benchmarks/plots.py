"""Plots of the benchmarks: small SVG files, the same colour and mark for a method everywhere.

Colours are those of Okabe and Ito, told apart with every kind of colour vision, and each has a mark of its own.
"""

from __future__ import annotations

import math
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {
    "vae": ("#0072B2", "o"),
    "vae_basic": ("#56B4E9", "s"),
    "mostlyai": ("#D55E00", "^"),
    "sdv_tvae": ("#009E73", "D"),
    "sdv_ctgan": ("#CC79A7", "v"),
    "sdv_copula": ("#E69F00", "P"),
}
_OTHER_MARKS = ("x", "+", "*", "d", "<", ">")
GREY = "#666666"
_DECADES = 200
"""Above this ratio of its ends, an axis names powers of ten alone."""


def need_matplotlib() -> None:
    """Find out before hours of measuring whether their plots can be drawn.

    Raises:
        SystemExit: matplotlib is not installed.

    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise SystemExit("the plots need matplotlib, which is not installed: pip install matplotlib") from None


def panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels with light axes.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        width: Width of the figure in inches.
        height: Height of the figure in inches.
        options: Further options of `matplotlib.pyplot.subplots`.

    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    # Text stays text, and the same results give the same file.
    plt.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "tabvae", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.edgecolor": GREY, "axes.grid": True, "grid.color": "#e5e5e5",
        "axes.axisbelow": True, "axes.titlesize": 9, "axes.titlelocation": "left", "legend.frameon": False,
    })  # fmt: skip
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)
    return figure, list(axes.flat)


def styles(methods: list[str]) -> dict[str, dict[str, Any]]:
    """Colour and mark of each method; what is not among the known ones is grey."""
    others = cycle(_OTHER_MARKS)
    chosen = {}
    for method in methods:
        colour, mark = _STYLES.get(method) or (GREY, next(others))
        chosen[method] = {"color": colour, "marker": mark, "label": method, "markersize": 6}
    return chosen


def logarithmic(axis: Axes, *, x: bool = False, y: bool = False) -> None:
    """Make axes logarithmic, with numbers that are read at a glance, once something is drawn."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for wanted, least, scale, limits, ticks in (
        (x, axis.dataLim.minposx, axis.set_xscale, axis.get_xlim, axis.xaxis),
        (y, axis.dataLim.minposy, axis.set_yscale, axis.get_ylim, axis.yaxis),
    ):
        if wanted and math.isfinite(least):
            scale("log")
            low, high = limits()
            ticks.set_major_locator(LogLocator(subs=(1,) if high / low > _DECADES else (1, 2, 5), numticks=12))
            ticks.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
            ticks.set_minor_locator(NullLocator())


def _short(value: float) -> str:
    for least, unit, name in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / unit:g}{name}"
    return f"{value:,.4g}"


def floor_line(axis: Axes, value: float, *, along_x: bool) -> None:
    """Draw what real rows score against real rows."""
    draw = axis.axvline if along_x else axis.axhline
    draw(value, color=GREY, linewidth=1, linestyle=":", zorder=1)


def ring(axis: Axes, x: float, y: float, colour: str) -> None:
    """Draw a ring around a mark."""
    axis.plot([x], [y], linestyle="none", marker="o", markersize=11, markerfacecolor="none", markeredgecolor=colour)


def legend(figure: Figure, axes: list[Axes]) -> None:
    """Name the methods above the panels, once each."""
    unique: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        unique.update(zip(labels, handles, strict=True))
    across = max(1, min(len(unique), int(figure.get_figwidth() / 1.5)))
    figure.legend(list(unique.values()), list(unique), loc="outside upper center", ncols=across)


def save(figure: Figure, file: Path) -> Path:
    """Write a figure as SVG, on white, so that it is legible on dark pages too."""
    from matplotlib import pyplot as plt

    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    plt.close(figure)
    return file
