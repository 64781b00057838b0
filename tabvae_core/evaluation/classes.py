"""Rows of equal classes: what makes a table whose classes were chosen comparable with real rows.

In a table where half of the customers churn, every column that goes with churning differs from real rows, rightly so.
Beside real rows in which the same classes are as frequent, only what is wrong differs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.errors import DataError
from tabvae_core.evaluation.view import Side, row_codes
from tabvae_core.schema import ColumnSchema
from tabvae_core.tables import resampled_rows, take_rows

__all__ = ["at_equal_shares", "reweighted"]

LEAST_ROWS = 1_000
"""Held-out rows at the drawn shares below which drawn rows are brought to the held-out shares instead."""
LEAST_OF_CLASS = 10
LEAST_SHARE, RAISED = 0.01, 2.0
"""A class of at least this share of the drawn rows, that is so much more frequent there than among real rows, needs so
many real rows; others bind nothing."""

Codes = npt.NDArray[np.int64]
Counts = npt.NDArray[np.float64]


def at_equal_shares(
    tables: Mapping[Side, pa.Table], column: ColumnSchema, seed: int
) -> tuple[dict[Side, pa.Table], str]:
    """Choose rows of every table so that the classes of a column are equally frequent in all.

    Real rows are brought to the shares of the drawn ones, each taken at most once. Where the scarcest class would leave
    fewer than 1,000 held-out rows, drawn rows are brought to the shares of the held-out ones: each class is then
    compared with itself all the same, and the rare one weighs less. Rows whose class is null are left out.

    Args:
        tables: Held-out, drawn and, for floors, training rows.
        column: The column of classes.
        seed: Decides which rows are chosen.

    Returns:
        The tables, and what was done in words.

    Raises:
        DataError: A class that was drawn is too rare among real rows to be compared.

    """
    codes = row_codes(tables, column)
    counts = _counts(codes)
    drawn, held = counts[Side.SYNTHETIC], counts[Side.HOLDOUT]
    for side in counts:
        _check_enough(drawn, counts[side], column.name, side)
    like, said = drawn, "held-out and training rows were resampled to the shares of the synthetic ones"
    if _most(held, drawn) < LEAST_ROWS:
        like = np.where(drawn > 0, held, 0)
        said = "synthetic rows were resampled to the shares of the held-out ones, of which there are few"
    rows = {side: _resampled(codes[side], like, _most(counts[side], like), seed) for side in tables}
    result = {side: take_rows(table, rows[side]) for side, table in tables.items()}
    return result, f"Classes of {column.name} are equally frequent in all tables: {said}."


def reweighted(real: pa.Table, drawn: pa.Table, column: ColumnSchema, seed: int) -> pa.Table:
    """As many real rows, their classes as frequent as among drawn rows; rows of scarce classes are there repeatedly.

    For histograms, to which repeated rows do no harm.

    Args:
        real: Real rows.
        drawn: Drawn rows; of them the column alone is read.
        column: The column of classes.
        seed: Decides which rows are chosen.

    Raises:
        DataError: A class that was drawn is too rare among real rows to be compared.

    """
    codes = row_codes({Side.HOLDOUT: real, Side.SYNTHETIC: drawn}, column)
    counts = _counts(codes)
    _check_enough(counts[Side.SYNTHETIC], counts[Side.HOLDOUT], column.name, Side.HOLDOUT)
    return take_rows(real, _resampled(codes[Side.HOLDOUT], counts[Side.SYNTHETIC], real.num_rows, seed))


def _counts(codes: Mapping[Side, Codes]) -> dict[Side, Counts]:
    """Rows of each class; nulls, whose code is 0, count as none."""
    size = 1 + max(int(part.max(initial=0)) for part in codes.values())
    counts = {side: np.bincount(part, minlength=size).astype(np.float64) for side, part in codes.items()}
    for count in counts.values():
        count[0] = 0
    return counts


def _check_enough(drawn: Counts, real: Counts, column: str, side: Side) -> None:
    shares, usual = (counts / max(counts.sum(), 1) for counts in (drawn, real))
    scarce = (shares >= LEAST_SHARE) & (shares > RAISED * usual) & (real < LEAST_OF_CLASS)
    if side is not Side.SYNTHETIC and scarce.any():
        share, rows = shares[scarce].max(), int(real[scarce].min())
        whose = "held-out" if side is Side.HOLDOUT else "training"
        raise DataError(
            f"column {column!r}: a class of {share:.0%} of the synthetic rows has only {rows} {whose} rows,"
            " too few to compare with",
            hint="balance classes of more rows, or raise gates.holdout",
        )


def _most(counts: Counts, like: Counts) -> int:
    """Rows that can be at given shares without taking one twice; classes of a few rows bind nothing."""
    binding = (like > 0) & (counts >= LEAST_OF_CLASS)
    if not binding.any():
        return int(counts[like > 0].sum())
    return int((counts[binding] / like[binding]).min() * like[counts > 0].sum())


def _resampled(codes: Codes, like: Counts, rows: int, seed: int) -> Codes:
    """Numbers of `rows` rows whose classes are as frequent as in `like`, ascending."""
    counts = np.bincount(codes, minlength=len(like)).astype(np.float64)
    weights = np.divide(like, counts, out=np.zeros(len(like)), where=counts > 0)
    return resampled_rows(weights[codes], codes, rows, seed)
