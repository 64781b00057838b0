"""Which columns of few values follow from which: one value of the one, one value of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["FEW_VALUES", "Coded", "Dependence", "find_dependences"]

Codes = npt.NDArray[np.int64]

FEW_VALUES = 0.2
"""Different values a row, at most, of a column from which others can follow: each must be seen again and again."""

_ALWAYS = 0.999
_DOMINANT = 0.95
_REPEATED = 0.5
_SURPRISE = 30.0
"""Nats: among independent columns, one follows from another once in e^30 tables."""
_CELLS = 150_000_000
"""Cells that the screening compares; its rows follow from this and from the number of columns."""
_LEAST_ROWS = 300
_SMALL_TABLE = 100_000


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of few values.

    Args:
        name: Name of the column.
        place: Its place in the table.
        codes: Number of each cell's value, from 0; -1 where missing; shape (n,).
        distinct: Different values.

    """

    name: str
    place: int
    codes: Codes
    distinct: int


@dataclass(frozen=True)
class Dependence:
    """One column follows from another.

    Args:
        target: The column that follows.
        column: What it follows from.
        share: Share of the rows (where both are there) that have their group's most frequent value.

    """

    target: str
    column: str
    share: float


def find_dependences(columns: Sequence[Coded], *, min_rows: int) -> tuple[Dependence, ...]:
    """Find which columns follow from which.

    Of columns that follow from each other, the first in the table stands for all. What follows over a third column is
    left out, unless that column comes too late in the table to help.

    Args:
        columns: Columns over the same rows, in the order of the table.
        min_rows: Rows that must repeat an earlier row's value of the column that is followed.

    Returns:
        In the order of the targets in the table.

    """
    if len(columns) < 2:
        return ()
    likely = _screened(columns)
    shares = np.zeros(likely.shape)

    def follows(column: int, target: int) -> bool:
        if likely[column, target]:
            likely[column, target] = False  # asked once
            shares[column, target] = _share(columns[column], columns[target], min_rows)
        return bool(shares[column, target] > 0.0)

    firsts: list[int] = []
    kept: list[tuple[int, int]] = []
    for late in range(len(columns)):
        same = next((early for early in firsts if follows(early, late) and follows(late, early)), None)
        if same is None:
            firsts.append(late)
        else:
            kept.append((late, same))
    known = {(column, target) for column in firsts for target in firsts if follows(column, target)}
    kept += [(target, column) for column, target in known if not _is_implied(known, firsts, column, target)]
    return tuple(
        Dependence(columns[target].name, columns[column].name, float(shares[column, target]))
        for target, column in sorted(kept)
    )


def _is_implied(known: set[tuple[int, int]], firsts: list[int], column: int, target: int) -> bool:
    between = (k for k in firsts if (column, k) in known and (k, target) in known)
    return any(k < target or column > target for k in between)


def _screened(columns: Sequence[Coded]) -> npt.NDArray[np.bool_]:
    """Whether, once some rows are sorted by a column, neighbours of its groups hardly ever differ in a target.

    Returns:
        Shape (columns, targets).

    """
    total = len(columns[0].codes)
    wanted = max(_LEAST_ROWS, _CELLS // len(columns) ** 2)
    rows = np.arange(total)
    if total > wanted:
        rows = np.sort(np.random.default_rng(0).permutation(total)[:wanted])
    codes = np.stack([column.codes[rows] for column in columns]).astype(np.int32)
    varies = np.array([column.distinct > 1 for column in columns])
    likely = np.zeros((len(columns), len(columns)), dtype=np.bool_)
    for index in np.flatnonzero(varies):
        order = np.argsort(codes[index], kind="stable")
        key, others = codes[index][order], codes[:, order]
        again = (key[1:] == key[:-1]) & (key[1:] >= 0)
        left, right = others[:, :-1][:, again], others[:, 1:][:, again]
        parted = ((left != right) & (left >= 0) & (right >= 0)).sum(axis=1)
        # Each row that disagrees with its group parts two pairs.
        likely[index] = varies & (parted <= 4 + 4 * (1.0 - _ALWAYS) * len(rows))
    np.fill_diagonal(likely, False)
    return likely


def _share(column: Coded, target: Coded, min_rows: int) -> float:
    """Share of the rows that have their group's most frequent value; 0 where the target does not follow."""
    both = (column.codes >= 0) & (target.codes >= 0)
    rows = int(both.sum())
    keys, values = column.codes[both], target.codes[both]
    per_key, per_value = np.bincount(keys), np.bincount(values)
    groups = int((per_key > 0).sum())
    if rows == 0 or groups >= FEW_VALUES * rows or per_key[per_key > 1].sum() < _REPEATED * rows:
        return 0.0
    if per_value.max() > _DOMINANT * rows:
        return 0.0
    # Each row but the first of its group agrees by chance as often as two rows of the table do.
    repeats, alike = rows - groups, float(((per_value / rows) ** 2).sum())
    if repeats < min_rows or repeats * -np.log(alike) < _SURPRISE:
        return 0.0
    cells = keys * np.int64(len(per_value)) + values
    most = np.zeros(len(per_key), dtype=np.int64)
    if len(per_key) * len(per_value) <= _SMALL_TABLE:
        most = np.bincount(cells, minlength=len(per_key) * len(per_value)).reshape(len(per_key), -1).max(axis=1)
    else:
        found, counts = np.unique(cells, return_counts=True)
        np.maximum.at(most, found // len(per_value), counts)
    return float(most.sum()) / rows if bool(np.all(most >= _ALWAYS * per_key)) else 0.0
