"""Rates: what one number is of another, where that follows from further columns.

An instalment is a loan's amount times what its interest rate and its term make of it; an amount is so many times the
price of its product. The logs of such ratios have no peaks as a whole, but each combination of the other columns has
one, at the same place in all of its rows. So the place is looked up: the log of the ratio, as the mean over the rows of
a combination. Combinations of few rows have none, and values of few rows take part in none.

Numbers are known by their value, categories by their token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Key", "Rates", "find_rates"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]

_CLOSE = 0.002
"""Logs of ratios this near to their rate count as following it."""
_MORE = 1.05
"""How many times as many rows must follow what is looked at later, such as two columns after one of them."""
_LEAST_SHARE = 0.5
"""Share of the rows that must follow."""
_MOST_VALUES = 1_000
"""Different values of a column that rates are by."""
_FEW = 50_000
"""Combinations that are counted in a table, of which most may be empty."""
_SCREENED = 4_000
"""Rows on which columns are compared, before the best of them are looked at in all rows."""
_FALLS = 0.5
"""What the variance of logs must fall to by one column, for rates to be looked for."""


@dataclass(frozen=True)
class Rates:
    """Logs of ratios by one or two columns.

    Args:
        columns: The columns.
        values: Their values in each combination, K of them.
        logs: Log of the ratio in each, length K.

    """

    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    logs: tuple[float, ...]

    def of(self, real: Mapping[str, Floats]) -> Floats:
        """Logs of the ratios of rows, NaN where none is known.

        Args:
            real: Values of the columns, shape (n,) each; NaN where missing.

        Returns:
            Shape (n,).

        """
        steps, table = self._table
        code = np.zeros(len(real[self.columns[0]]), np.int64)
        known = np.ones(len(code), np.bool_)
        for name, values in zip(self.columns, steps, strict=True):
            cells = real[name]
            at = np.searchsorted((values[1:] + values[:-1]) / 2, cells)
            # What is computed or read from text differs in its last bits.
            known &= np.isclose(values[at], cells, rtol=1e-9, atol=0)
            code = code * len(values) + at
        return np.where(known, table[code], np.nan)

    @cached_property
    def _table(self) -> tuple[list[Floats], Floats]:
        """Different values of each column, and logs by the numbers of these."""
        values = np.array(self.values, np.float64)
        steps, places = zip(*(np.unique(column, return_inverse=True) for column in values.T), strict=True)
        sizes = [len(step) for step in steps]
        table = np.full(int(np.prod(sizes)), np.nan)
        table[np.ravel_multi_index(places, sizes)] = self.logs
        return list(steps), table

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild from a bundle."""
        return cls(tuple(stored["columns"]), tuple(map(tuple, stored["values"])), tuple(stored["logs"]))


@dataclass(frozen=True)
class Key:
    """A column that rates may be by.

    Args:
        values: Its values, shape (n,), NaN where missing.
        codes: Numbers of these, from 0 on, shape (n,).

    """

    values: Floats
    codes: Codes

    @classmethod
    def of(cls, values: Floats) -> Self | None:
        """Number the values of a column; None where they are all alike, or too many."""
        different, codes = np.unique(values, return_inverse=True)
        return cls(values, codes) if 1 < len(different) <= min(_MOST_VALUES, len(values) // 10) else None


def find_rates(
    own: Floats, others: Mapping[str, Floats], keys: Mapping[str, Key], free: Mask, least_rows: int
) -> tuple[str, Rates, Mask] | None:
    """Find the column, and the rates by others, that a target follows in most rows.

    Args:
        own: Logs of the target, shape (n,), NaN where it has none.
        others: Logs of the columns that it may be a multiple of, shape (n,) each.
        keys: Columns that rates may be by.
        free: Rows that nothing else explains, shape (n,).
        least_rows: Rows that must follow the rate of a combination.

    Returns:
        The column, the rates, and the rows that follow them, shape (n,); None where no rates explain enough rows.

    """
    best: tuple[str, Rates, Mask] | None = None
    for name, other in others.items():
        logs = np.where(free, own - other, np.nan)
        there = np.flatnonzero(~np.isnan(logs))
        usable = {key: column for key, column in keys.items() if key != name}
        if len(there) < _LEAST_SHARE * len(own) or not usable or _share_close(logs[there]) > _LEAST_SHARE / 2:
            continue
        for columns in _screened(logs, there, usable):
            found = _rates(logs, there, {key: usable[key] for key in columns}, least_rows)
            if found is not None and (best is None or found[1].sum() > _MORE * best[2].sum()):
                best = name, *found
    return best


def _share_close(logs: Floats) -> float:
    return float((np.abs(logs - np.median(logs)) < _CLOSE).mean())


def _screened(logs: Floats, there: npt.NDArray[np.intp], keys: Mapping[str, Key]) -> Iterator[tuple[str, ...]]:
    """The column that explains most of the variance of logs, and the two that do."""
    some = there[:: max(1, len(there) // _SCREENED)]
    own = np.clip(logs[some], *np.quantile(logs[some], [0.01, 0.99]))
    codes = {name: key.codes[some] for name, key in keys.items()}
    within = {name: _within(own, code) for name, code in codes.items()}
    first = min(within, key=lambda name: within[name])
    if within[first] > _FALLS * float(own.var()):
        return
    yield (first,)
    both = {name: _within(own, _paired(codes[first], code)) for name, code in codes.items() if name != first}
    if both and min(both.values()) < within[first]:
        yield first, min(both, key=lambda name: both[name])


def _paired(one: Codes, other: Codes) -> Codes:
    """Numbers of combinations."""
    both = one * (int(other.max()) + 1) + other
    return both if int(both.max()) < _FEW else np.unique(both, return_inverse=True)[1]


def _within(values: Floats, codes: Codes) -> float:
    """Variance within groups, by the degrees of freedom that groups leave; infinite where most are of one row."""
    counts = np.bincount(codes)
    left = len(values) - np.count_nonzero(counts)
    if left < len(values) // 2:
        return float("inf")
    means = np.bincount(codes, values) / np.maximum(counts, 1)
    return float(((values - means[codes]) ** 2).sum() / left)


def _rates(
    logs: Floats, there: npt.NDArray[np.intp], keys: Mapping[str, Key], least_rows: int
) -> tuple[Rates, Mask] | None:
    """Look the rates up in all rows; None where not enough of them follow."""
    group, *more = (key.codes[there] for key in keys.values())
    for codes in more:
        group = _paired(group, codes)
    _, first, group = np.unique(group, return_index=True, return_inverse=True)
    own, counts = logs[there], np.bincount(group)
    order = np.lexsort((own, group))
    medians = own[order][np.cumsum(counts) - counts + counts // 2]
    close = np.abs(own - medians[group]) < _CLOSE
    following = np.bincount(group[close], minlength=len(counts))
    values = np.stack([key.values[there[first]] for key in keys.values()], axis=1)
    kept = (following >= least_rows) & ~np.isnan(values).any(axis=1)
    close &= kept[group]
    if close.sum() < _LEAST_SHARE * len(logs):
        return None
    means = np.bincount(group[close], own[close], minlength=len(counts))[kept] / following[kept]
    follows = np.zeros(len(logs), np.bool_)
    follows[there[close]] = True
    return Rates(tuple(keys), tuple(map(tuple, values[kept].tolist())), tuple(means.tolist())), follows
