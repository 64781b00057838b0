"""Numbers of every Arrow type as real values on one scale, and how many decimals write them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.ordinal import base_type, is_integer_like, to_ordinal

__all__ = ["MAX_DECIMALS", "decimals_of", "has_real_values", "ordinals_of", "real_of", "real_values", "rounded"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MAX_DECIMALS = 6
"""More decimals than these count as none: such values are as good as continuous."""

_SIGN_BIT = np.uint64(1 << 63)


def real_values(cells: pa.Array | pa.ChunkedArray) -> tuple[Floats, Mask]:
    """Convert numbers of any type and scale to real values, so that 12.30 and 12.3 are one.

    Args:
        cells: n integers, floats or decimals; integers beyond 2^53 lose their low digits.

    Returns:
        Values, shape (n,), NaN where missing; and the mask of the cells that are there, shape (n,).

    Raises:
        DataError: The type has no order.

    """
    ordinals, there = to_ordinal(cells)
    return real_of(ordinals, there, cells.type), there


def real_of(ordinals: npt.NDArray[np.int64] | Floats, there: Mask, arrow_type: pa.DataType) -> Floats:
    """Convert the ordinals of numbers (see `codecs.ordinal`) to real values.

    Args:
        ordinals: Shape (n,).
        there: Which cells are there, shape (n,).
        arrow_type: Type of the cells.

    Returns:
        Shape (n,); NaN where a cell is missing.

    """
    kind = base_type(arrow_type)
    if pa.types.is_uint64(kind):
        real = (ordinals.view(np.uint64) ^ _SIGN_BIT).astype(np.float64)
    elif pa.types.is_decimal(kind):
        # One correctly rounded division (or product) gives the float nearest to the decimal.
        scale = int(kind.scale)
        real = np.asarray(ordinals / 10.0**scale if scale >= 0 else ordinals * 10.0**-scale, dtype=np.float64)
    else:
        real = ordinals.astype(np.float64)
    return np.where(there, real, np.nan)


def has_real_values(arrow_type: pa.DataType) -> bool:
    """Whether cells are integers, floats or decimals that ordinals order as their values do, from zero on."""
    kind = base_type(arrow_type)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(numeric and not pa.types.is_uint64(kind))


def ordinals_of(real: Floats, arrow_type: pa.DataType) -> npt.NDArray[np.int64] | Floats:
    """Convert real values back to ordinals of a type of numbers: the inverse of `real_of`.

    Args:
        real: Shape (n,); NaN gives zero.
        arrow_type: Type of the cells.

    Returns:
        Shape (n,), int64 where the type's ordinals are, else float64.

    """
    kind = base_type(arrow_type)
    real = np.where(np.isfinite(real), real, 0.0)
    if pa.types.is_decimal(kind):
        real = np.rint(real * 10.0 ** int(kind.scale))
    if not is_integer_like(kind):
        return real
    if pa.types.is_uint64(kind):
        return (np.clip(real, 0, 2.0**63).astype(np.uint64) ^ _SIGN_BIT).view(np.int64)
    return np.rint(np.clip(real, -(2.0**63), 2.0**62)).astype(np.int64)


def decimals_of(values: Floats, arrow_type: pa.DataType) -> int | None:
    """Count the decimals that write every value of a column.

    Args:
        values: Real values, shape (n,); NaN where missing.
        arrow_type: Type of the column, which says how exact its values are.

    Returns:
        0 to 6; None where that is not enough, or where the values are too large for their type to hold decimals.

    """
    error, exact = _precision(base_type(arrow_type))
    known = values[~np.isnan(values)]
    size = np.abs(known)
    largest = float(size.max(initial=0.0))
    if largest <= exact and bool(np.all(known == np.rint(known))):
        return 0
    for decimals in range(1, MAX_DECIMALS + 1):
        if largest * error >= 0.1 * 10.0**-decimals:
            break
        if bool(np.all(np.abs(np.round(known, decimals) - known) <= error * size)):
            return decimals
    return None


def _precision(kind: pa.DataType) -> tuple[float, float]:
    """Relative distance of a decimal to its float, and the number up to which all integers are exact."""
    if pa.types.is_float16(kind):
        return 5e-4, 2.0**11
    if pa.types.is_float32(kind):
        return 6e-8, 2.0**24
    return 4e-15, 2.0**53  # leaves room for some roundings of what computed the value


def rounded(values: Floats, decimals: int | None) -> Floats:
    """Round to decimals (None: not at all); what is no finite number becomes NaN."""
    with np.errstate(all="ignore"):
        result = values if decimals is None else np.round(values, decimals) + 0.0  # no -0.0
    # A number too large to be scaled has no decimals that could be rounded.
    result = np.where(np.isfinite(result), result, values)
    return np.where(np.isfinite(result), result, np.nan)
