"""Dates and times as people live by them: by year, month, weekday and hour. Real rows become shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tabvae_core.evaluation.charts import Bars
from tabvae_core.evaluation.view import ColumnView, Floats, Side

__all__ = ["Calendar", "calendar"]

_DAY = 86_400.0
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_HOURS = tuple(f"{hour:02d}" for hour in range(24))
_YEARS = (-2_200, 6_200)
"""Years that are told apart, as distance from 1970; NumPy's calendar ends far beyond."""
MAX_YEARS = 30

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calendar:
    """Shares of a column's known cells by one part of the calendar.

    Args:
        title: "by month".
        bars: One bar a month, in order.

    """

    title: str
    bars: Bars


def calendar(column: ColumnView) -> tuple[Calendar, ...]:
    """Count a column by the parts of the calendar that tell its cells apart; none for numbers and durations.

    Instants are taken in UTC, on both sides alike.
    """
    if column.unit not in ("date", "datetime", "time"):
        return ()
    real, synthetic = (_known(column.values[side]) for side in (Side.HOLDOUT, Side.SYNTHETIC))
    if not len(real):
        return ()
    parts: list[tuple[str, tuple[str, ...], Callable[[Floats], Codes]]] = []
    if column.unit != "time":
        first, last = int(_years(real).min()), int(_years(real).max())
        if last - first < MAX_YEARS:
            years = tuple(str(1970 + year) for year in range(first, last + 1))
            parts.append(("by year", years, lambda seconds: _years(seconds) - first))
        parts += [("by month", _MONTHS, _months), ("by weekday", _WEEKDAYS, _weekdays)]
    if column.unit != "date":
        parts.append(("by hour", _HOURS, _hours))
    found = [Calendar(title, _shares(labels, part(real), part(synthetic))) for title, labels, part in parts]
    return tuple(one for one in found if (one.bars.real > 0).sum() > 1)


def _known(values: Floats) -> Floats:
    low, high = (years * 365.25 * _DAY for years in _YEARS)
    return values[(values >= low) & (values <= high)]


def _shares(labels: tuple[str, ...], real: Codes, synthetic: Codes) -> Bars:
    """Cells beyond the labels, years that no held-out row has, are counted and not drawn."""
    shares = [
        np.bincount(codes[(codes >= 0) & (codes < len(labels))], minlength=len(labels)) / max(len(codes), 1)
        for codes in (real, synthetic)
    ]
    return Bars(labels, shares[0], shares[1], ordered=True)


def _days(seconds: Floats) -> npt.NDArray[np.datetime64]:
    return np.floor(seconds / _DAY).astype(np.int64).astype("datetime64[D]")


def _years(seconds: Floats) -> Codes:
    return _days(seconds).astype("datetime64[Y]").astype(np.int64)


def _months(seconds: Floats) -> Codes:
    return _days(seconds).astype("datetime64[M]").astype(np.int64) % 12


def _weekdays(seconds: Floats) -> Codes:
    return (np.floor(seconds / _DAY).astype(np.int64) + 3) % 7  # 1970 began on a Thursday


def _hours(seconds: Floats) -> Codes:
    return np.floor(seconds / 3600).astype(np.int64) % 24
