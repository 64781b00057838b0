"""What the report draws, as numbers: histograms, bars, densities, projections.

Real rows leave this module as counts only. Categories and exact values are named when at least five held-out
rows have them; bin edges are round numbers, never values of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from tabvae_core.evaluation.view import ColumnView, Floats, Side, TableView, Unit

__all__ = [
    "MIN_NAMED",
    "OTHER",
    "Bars",
    "Density",
    "Histogram",
    "PairChart",
    "Projection",
    "Spike",
    "column_chart",
    "density",
    "format_value",
    "most_related",
    "null_bars",
    "pair_chart",
    "plot_limits",
    "projection",
    "row_features",
    "some_rows",
]

MIN_NAMED = 5
"""Held-out rows that must share a category or exact value before it is named."""
OTHER = "(other)"
NULL = "(null)"
MAX_BARS = 30
MAX_SINGLE_VALUES = 25
"""A measure of so few distinct values is drawn value by value."""
BINS = 40
SPIKE = 0.1
"""An exact value of this share of the rows is listed beside the histogram, which it would flatten."""
MAX_SPIKES = 3
CELLS = 36
MAX_FEATURES = 600
POINTS = 2_000


@dataclass(frozen=True)
class Spike:
    """An exact value that many rows have; shares of all rows, in [0, 1]."""

    label: str
    real: float
    synthetic: float


@dataclass(frozen=True)
class Histogram:
    """A measure: shares of all rows by bin.

    Args:
        edges: Shape (bins + 1,), in the axis's unit: numbers, seconds.
        real: Shares of the held-out rows, shape (bins,); the outermost bins hold everything beyond them.
        synthetic: Shares of the synthetic rows, shape (bins,).
        log: Whether the edges grow geometrically.
        unit: What the edges mean.
        spikes: Exact values left out of the bins.

    """

    edges: Floats
    real: Floats
    synthetic: Floats
    log: bool
    unit: Unit
    spikes: tuple[Spike, ...] = ()


@dataclass(frozen=True)
class Bars:
    """Categories, or the values of a measure that has few: shares of all rows, in [0, 1]."""

    labels: tuple[str, ...]
    real: Floats
    synthetic: Floats
    hidden: int = 0
    """Held-out categories that "(other)" holds."""
    ordered: bool = False
    """Whether the bars are values of a measure, in their order."""


@dataclass(frozen=True)
class Density:
    """A two-dimensional histogram: rows in each cell that is not empty.

    Args:
        x: Left edges of the cells, shape (cells,).
        y: Lower edges, shape (cells,).
        width: Of every cell.
        height: Of every cell.
        counts: Shape (cells,).

    """

    x: Floats
    y: Floats
    width: float
    height: float
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Projection:
    """Both tables on the two main axes of the held-out rows."""

    real: Density
    synthetic: Density
    points: Floats
    """Synthetic rows, shape (at most 2,000, 2)."""
    explained: tuple[float, float]
    """Share of the held-out rows' variance on each axis."""
    limits: tuple[tuple[float, float], tuple[float, float]] = field(default=((0.0, 1.0), (0.0, 1.0)))


def column_chart(column: ColumnView) -> Histogram | Bars:
    """Choose how a column is drawn and count its rows."""
    if not column.is_measure:
        return _category_bars(column)
    real, synthetic = column.values[Side.HOLDOUT], column.values[Side.SYNTHETIC]
    if len(np.unique(real[~np.isnan(real)])) <= MAX_SINGLE_VALUES:
        return _value_bars(column)
    return _histogram(column, real, synthetic)


def _category_bars(column: ColumnView) -> Bars:
    labels = column.labels or ()
    counts = {side: _counts(column.values[side], len(labels)) for side in (Side.HOLDOUT, Side.SYNTHETIC)}
    real = counts[Side.HOLDOUT]
    named = [k for k in np.argsort(-real, kind="stable") if real[k] >= MIN_NAMED][:MAX_BARS]
    hidden = int((real > 0).sum()) - len(named)
    return _bars([labels[k] for k in named], named, column, counts, hidden)


def _value_bars(column: ColumnView) -> Bars:
    """Values of a measure as if they were categories, in order; what only synthetic rows have is other."""
    real = column.values[Side.HOLDOUT]
    values = np.unique(real[~np.isnan(real)])
    counts = {}
    for side in (Side.HOLDOUT, Side.SYNTHETIC):
        known = column.values[side][~np.isnan(column.values[side])]
        place = np.searchsorted(values, known).clip(max=max(len(values) - 1, 0))
        hit = values[place] == known if len(values) else np.zeros(len(known), dtype=np.bool_)
        counts[side] = np.bincount(place[hit], minlength=len(values))
    named = [k for k in range(len(values)) if counts[Side.HOLDOUT][k] >= MIN_NAMED]
    labels = [format_value(float(values[k]), column.unit) for k in named]
    return _bars(labels, named, column, counts, len(values) - len(named))


def _bars(
    labels: Sequence[str],
    named: Sequence[int],
    column: ColumnView,
    counts: dict[Side, npt.NDArray[np.int64]],
    hidden: int,
) -> Bars:
    """Named bars, then "(other)" and "(null)" where a side has them."""
    shares = {}
    for side, count in counts.items():
        rows, nulls = len(column.values[side]), int(np.isnan(column.values[side]).sum())
        shown = count[np.asarray(named, dtype=np.int64)]
        shares[side] = np.append(shown, [rows - nulls - shown.sum(), nulls]) / max(rows, 1)
    real, synthetic = shares[Side.HOLDOUT], shares[Side.SYNTHETIC]
    keep = (real > 0) | (synthetic > 0)
    keep[: len(named)] = True
    texts = [*labels, OTHER, NULL]
    kept = tuple(text for text, keeps in zip(texts, keep, strict=True) if keeps)
    return Bars(kept, real[keep], synthetic[keep], hidden, ordered=column.is_measure)


def _counts(codes: Floats, size: int) -> npt.NDArray[np.int64]:
    return np.bincount(codes[~np.isnan(codes)].astype(np.int64), minlength=size)


def _histogram(column: ColumnView, real: Floats, synthetic: Floats) -> Histogram:
    spikes = _spikes(real)
    rest, other = (v[~np.isnan(v) & ~np.isin(v, spikes)] for v in (real, synthetic))
    edges, log = _edges(rest, column.unit)
    listed = tuple(
        Spike(format_value(float(s), column.unit), float((real == s).mean()), float((synthetic == s).mean()))
        for s in spikes
    )
    shares = [_binned(v, edges) / max(rows, 1) for v, rows in ((rest, len(real)), (other, len(synthetic)))]
    return Histogram(edges, shares[0], shares[1], log, column.unit, listed)


def _spikes(values: Floats) -> Floats:
    distinct, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    often = (counts >= SPIKE * len(values)) & (counts >= MIN_NAMED)
    order = np.argsort(-counts[often], kind="stable")[:MAX_SPIKES]
    return np.sort(distinct[often][order])


def _binned(values: Floats, edges: Floats) -> Floats:
    """Counts; what lies beyond the edges counts in the outermost bins."""
    inside = np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf))
    return np.histogram(inside, edges)[0].astype(np.float64)


def _edges(values: Floats, unit: Unit) -> tuple[Floats, bool]:
    """Round edges over the middle 99 % of the values; geometric where most of the range would be empty."""
    if not len(values):
        return np.array([0.0, 1.0]), False
    low, middle, high = (float(q) for q in np.quantile(values, [0.005, 0.5, 0.995]))
    if unit == "number" and low > 0 and high > 20 * middle and high > 100 * low:
        first, last = np.floor(np.log10(low) * 5) / 5, np.ceil(np.log10(high) * 5) / 5
        return 10 ** np.linspace(first, last, BINS + 1), True
    if high <= low:
        low, high = low - 0.5, low + 0.5
    whole = bool(np.all(values == np.round(values)))
    step = _step((high - low) / BINS, unit, whole)
    first, last = np.floor(low / step), np.ceil(high / step)
    return np.arange(first, max(last, first + 1) + 1) * step, False


_TIME_STEPS = (
    1,
    5,
    15,
    60,
    300,
    900,
    3_600,
    7_200,
    21_600,
    43_200,
    86_400,
    2 * 86_400,
    7 * 86_400,
    14 * 86_400,
)


def _step(raw: float, unit: Unit, whole: bool) -> float:
    """The next round step above `raw`; whole numbers get whole steps, times those of clocks and calendars."""
    if unit != "number" and raw > 0.5:
        for seconds in _TIME_STEPS:
            if seconds >= raw:
                return float(seconds)
        return float(np.ceil(raw / (30 * 86_400)) * 30 * 86_400)
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(float(m * power) for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    return max(step, 1.0) if whole and unit == "number" else step


def format_value(value: float, unit: Unit) -> str:
    """A measure's value as a person writes it."""
    if unit in ("date", "datetime"):
        try:
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value)
        except OverflowError:
            return f"{value:,.0f} s"
        midnight = unit == "date" or (moment.hour, moment.minute, moment.second) == (0, 0, 0)
        return moment.strftime("%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M")
    if unit == "time":
        minutes, seconds = divmod(int(value), 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}" + (f":{seconds:02d}" if seconds else "")
    if unit == "duration":
        return _format_duration(value)
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"


def _format_duration(seconds: float) -> str:
    for size, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if abs(seconds) >= size:
            return f"{seconds / size:,.3g} {name}"
    return f"{seconds:,.3g} s"


def null_bars(view: TableView) -> Bars | None:
    """Shares of nulls by column, the largest difference first; None where there are none."""
    names = [column.name for column in view.columns]
    real, synthetic = (
        np.array([np.isnan(column.values[side]).mean() for column in view.columns])
        for side in (Side.HOLDOUT, Side.SYNTHETIC)
    )
    order = [int(k) for k in np.argsort(-np.abs(real - synthetic), kind="stable") if max(real[k], synthetic[k]) > 0]
    return Bars(tuple(names[k] for k in order), real[order], synthetic[order]) if order else None


def density(
    x: Floats, y: Floats, limits: tuple[tuple[float, float], tuple[float, float]], *, cells: int = CELLS
) -> Density:
    """Count rows on a square grid; rows beyond the limits count in the outermost cells."""
    (x0, x1), (y0, y1) = limits
    width, height = (x1 - x0) / cells, (y1 - y0) / cells
    column = ((x - x0) / width).astype(np.int64).clip(0, cells - 1)
    row = ((y - y0) / height).astype(np.int64).clip(0, cells - 1)
    filled, counts = np.unique(column * cells + row, return_counts=True)
    return Density(x0 + filled // cells * width, y0 + filled % cells * height, width, height, counts.astype(np.int64))


Limits = tuple[tuple[float, float], tuple[float, float]]


def projection(
    view: TableView, *, seed: int = 0, frame: Limits | None = None, points: int = POINTS, cells: int = CELLS
) -> Projection | None:
    """Project both tables on the two main axes of the held-out rows; None below two columns or ten rows.

    Args:
        view: The tables.
        seed: Seed of the rows that are drawn as points.
        frame: Limits of the axes; they follow from both tables where left out.
        points: Synthetic rows drawn at most.
        cells: Cells of the densities on each axis.

    """
    if len(view.columns) < 2 or min(view.rows[Side.HOLDOUT], view.rows[Side.SYNTHETIC]) < 10:
        return None
    real, synthetic = (np.hstack(parts) for parts in zip(*row_features(view), strict=True))
    centre = real.mean(axis=0)
    variances, axes = np.linalg.eigh((real - centre).T @ (real - centre) / len(real))
    if len(variances) < 2 or variances[-2] <= 1e-9:
        return None
    axes = axes[:, [-1, -2]]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # an axis has no sign of its own: take the same always
    a, b = (real - centre) @ axes, (synthetic - centre) @ axes
    limits = frame or (plot_limits(a[:, 0], b[:, 0]), plot_limits(a[:, 1], b[:, 1]))
    chosen = np.random.default_rng(seed).permutation(len(b))[:points]
    inside = np.all([(b[:, k] >= limits[k][0]) & (b[:, k] <= limits[k][1]) for k in (0, 1)], axis=0)
    return Projection(
        real=density(a[:, 0], a[:, 1], limits, cells=cells),
        synthetic=density(b[:, 0], b[:, 1], limits, cells=cells),
        points=b[chosen[inside[chosen]]],
        explained=(float(variances[-1] / variances.sum()), float(variances[-2] / variances.sum())),
        limits=limits,
    )


@dataclass(frozen=True)
class PairChart:
    """Two measures: the held-out rows' density, and synthetic rows as points."""

    real: Density
    points: Floats
    """Shape (n, 2)."""
    limits: tuple[tuple[float, float], tuple[float, float]]
    """Of the two axes: the middle of the held-out rows."""
    units: tuple[Unit, Unit]


def pair_chart(across: ColumnView, up: ColumnView, rows: npt.NDArray[np.int64], *, cells: int = CELLS) -> PairChart:
    """Count held-out rows and choose points for two measures.

    Args:
        across: The measure on the first axis.
        up: The measure on the second axis.
        rows: Synthetic rows to draw (see `some_rows`).
        cells: Cells of the density on each axis.

    """
    real, synthetic = (
        np.column_stack([across.values[side], up.values[side]]) for side in (Side.HOLDOUT, Side.SYNTHETIC)
    )
    real, synthetic = (values[~np.isnan(values).any(axis=1)] for values in (real, synthetic[rows]))
    limits = (plot_limits(across.values[Side.HOLDOUT]), plot_limits(up.values[Side.HOLDOUT]))
    inside = np.all([(synthetic[:, k] >= limits[k][0]) & (synthetic[:, k] <= limits[k][1]) for k in (0, 1)], axis=0)
    shaded = density(real[:, 0], real[:, 1], limits, cells=cells)
    return PairChart(shaded, synthetic[inside], limits, (across.unit, up.unit))


def some_rows(view: TableView, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Numbers of at most so many synthetic rows, chosen uniformly."""
    return np.sort(np.random.default_rng(seed).permutation(view.rows[Side.SYNTHETIC])[:most])


def row_features(view: TableView) -> list[tuple[Floats, Floats]]:
    """Features of each column's held-out and synthetic rows, each of shape (rows, features of the column).

    Measures are standardised by the held-out rows, the ten most frequent categories of a column are one-hot; fewer of
    them in tables of more than 60 columns, where time grows with the cube of the features.
    """
    top = max(1, min(10, MAX_FEATURES // max(len(view.columns), 1)))
    return [_features(column, top) for column in view.columns]


def _features(column: ColumnView, most: int) -> tuple[Floats, Floats]:
    real, synthetic = column.values[Side.HOLDOUT], column.values[Side.SYNTHETIC]
    if column.is_measure:
        known = real[~np.isnan(real)]
        mean, spread = (float(known.mean()), float(known.std()) or 1.0) if len(known) else (0.0, 1.0)
        scaled = [np.nan_to_num(np.clip((v - mean) / spread, -4, 4), nan=0.0)[:, None] for v in (real, synthetic)]
        return scaled[0], scaled[1]
    counts = _counts(real, len(column.labels or ()))
    top = np.argsort(-counts, kind="stable")[:most].astype(np.float64)
    return (real[:, None] == top).astype(np.float64), (synthetic[:, None] == top).astype(np.float64)


def plot_limits(*samples: Floats) -> tuple[float, float]:
    """The middle 99 % of all samples, with a margin: no single row decides the frame."""
    known = [v[~np.isnan(v)] for v in samples]
    ends = [np.quantile(v, [0.005, 0.995]) for v in known if len(v)] or [np.zeros(2)]
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def most_related(view: TableView, correlations: Floats, most: int = 4) -> tuple[int, ...]:
    """Measures to plot in pairs: the most correlated two, then those most correlated with the ones chosen.

    Args:
        view: The tables.
        correlations: Of the held-out rows, shape (columns, columns).
        most: Columns at most.

    Returns:
        Indices of columns in their order; empty where fewer than two measures vary.

    """
    able = [k for k, c in enumerate(view.columns) if c.is_measure and np.any(~np.isnan(c.values[Side.HOLDOUT]))]
    if len(able) < 2:
        return ()
    strength = np.abs(correlations)
    pairs = [(strength[i, j], i, j) for n, i in enumerate(able) for j in able[n + 1 :]]
    _, first, second = max(pairs, key=lambda p: (p[0], -p[1], -p[2]))
    chosen = [first, second]
    while len(chosen) < min(most, len(able)):
        rest = [k for k in able if k not in chosen]
        chosen.append(max(rest, key=lambda k: (float(strength[k, chosen].max()), -k)))
    return tuple(sorted(chosen))
