"""Arrow arrays of every orderable type as numpy ordinals, and exactly back.

An *ordinal* is a number that orders as the cells do: int64 wherever 64 bits hold every value, else float64.

    type                        ordinal                             exact
    int8 … int64, uint8 … 32    the integer                         yes
    uint64                      the integer less 2^63               yes
    bool                        0, 1                                yes
    float16, 32, 64             float64; NaN counts as null,        finite values
                                ±inf as the largest finite value
    decimal, precision <= 18    unscaled integer                    yes
    decimal, precision > 18     unscaled integer as float64         up to 2^53 unscaled, beyond it
                                                                    15 significant digits
    date32, date64              days since 1970-01-01               yes
    time32, time64              count of the type's unit            yes
    timestamp, duration         count of the type's unit            yes

Dictionary, run-end-encoded and extension types behave as the type that they wrap.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.errors import DataError

__all__ = [
    "as_field",
    "base_type",
    "bound_of",
    "from_ordinal",
    "is_binary_like",
    "is_integer_like",
    "is_orderable",
    "is_string_like",
    "is_temporal",
    "ordinal_of",
    "plain",
    "restore_type",
    "to_ordinal",
    "unit_of",
]

Ordinals = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_INT64_DECIMAL_DIGITS = 18
_DAY_NS = 86_400 * 10**9
_MS_PER_DAY = 86_400_000
_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_SIGN_BIT = np.uint64(1 << 63)
_INT64 = np.iinfo(np.int64)


def base_type(arrow_type: pa.DataType) -> pa.DataType:
    """Type of the cells once dictionaries, run-end encoding and extensions are taken off."""
    while True:
        if isinstance(arrow_type, pa.BaseExtensionType):
            arrow_type = arrow_type.storage_type
        elif pa.types.is_dictionary(arrow_type) or pa.types.is_run_end_encoded(arrow_type):
            arrow_type = arrow_type.value_type
        else:
            return arrow_type


def is_string_like(arrow_type: pa.DataType) -> bool:
    """Whether cells are text: string, large_string, string_view, or a wrapper of one."""
    kind = base_type(arrow_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary_like(arrow_type: pa.DataType) -> bool:
    """Whether cells are bytes: binary, large_binary, binary_view, fixed_size_binary, or a wrapper of one."""
    kind = base_type(arrow_type)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_temporal(arrow_type: pa.DataType) -> bool:
    """Whether cells are dates, times, timestamps or durations (calendar intervals have no order)."""
    return unit_of(arrow_type) is not None


def is_orderable(arrow_type: pa.DataType) -> bool:
    """Whether `to_ordinal` takes the type."""
    kind = base_type(arrow_type)
    return bool(
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or is_temporal(kind)
    )


def is_integer_like(arrow_type: pa.DataType) -> bool:
    """Whether the ordinals of the type are int64."""
    kind = base_type(arrow_type)
    if pa.types.is_decimal(kind):
        return int(kind.precision) <= _INT64_DECIMAL_DIGITS
    return is_orderable(kind) and not pa.types.is_floating(kind)


def unit_of(arrow_type: pa.DataType) -> int | None:
    """Nanoseconds in one step of the ordinal of a date, time, timestamp or duration; None elsewhere."""
    kind = base_type(arrow_type)
    if pa.types.is_date(kind):
        return _DAY_NS
    if pa.types.is_time(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return _UNIT_NS[kind.unit]
    return None


def plain(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Take the wrappers off cells.

    Args:
        array: Cells of any type, in one piece or in chunks.

    Returns:
        One array of `base_type`; text always comes as large_string and bytes as large_binary, so that no
        caller has to know seven layouts.

    """
    if isinstance(array, pa.ChunkedArray):
        array = _one_chunk(array)
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif pa.types.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        elif is_string_like(array.type):
            return array.cast(pa.large_string())
        elif is_binary_like(array.type):
            return array.cast(pa.large_binary())
        else:
            return array


def _one_chunk(chunked: pa.ChunkedArray) -> pa.Array:
    if chunked.num_chunks == 1:
        return chunked.chunk(0)
    # Chunks may carry different dictionaries; a unified one can overflow a narrow index, so each is decoded.
    pieces = [plain(chunk) for chunk in chunked.chunks]
    return pa.concat_arrays(pieces) if pieces else plain(pa.array([], type=chunked.type))


def restore_type(array: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """Give plain cells exactly the wanted type: the inverse of `plain`.

    Raises:
        DataError: A dictionary's index type cannot count the distinct values, or the types do not fit.

    """
    if array.type == arrow_type:
        return array
    try:
        return _restore(array, arrow_type)
    except pa.ArrowException as error:
        raise DataError(f"cells of type {array.type} cannot become {arrow_type}: {type(error).__name__}") from None


def _restore(array: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    if isinstance(arrow_type, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(arrow_type, _restore(array, arrow_type.storage_type))
    if pa.types.is_dictionary(arrow_type):
        encoded = plain(array).dictionary_encode()
        return pa.DictionaryArray.from_arrays(
            encoded.indices.cast(arrow_type.index_type),
            _restore(encoded.dictionary, arrow_type.value_type),
            ordered=arrow_type.ordered,
        )
    if pa.types.is_run_end_encoded(arrow_type):
        return pc.run_end_encode(_restore(array, arrow_type.value_type), run_end_type=arrow_type.run_end_type)
    return array if array.type == arrow_type else array.cast(arrow_type)


def as_field(array: pa.Array, field: pa.Field) -> pa.Array:
    """Make decoded cells obey a field that forbids nulls: among floats a missing value is a NaN there.

    Raises:
        DataError: Cells are null and the field allows none.

    """
    if field.nullable or array.null_count == 0:
        return array
    if pa.types.is_floating(array.type):
        return array.fill_null(pa.scalar(float("nan")).cast(array.type))
    raise DataError(f"column {field.name!r} allows no nulls, however: {array.null_count} were made")


def to_ordinal(array: pa.Array | pa.ChunkedArray) -> tuple[Ordinals, Mask]:
    """Convert cells to numbers that order as the cells do.

    Args:
        array: n cells of an orderable type.

    Returns:
        Ordinals, shape (n,), int64 where `is_integer_like` and float64 elsewhere, zero where a cell is
        missing; and the mask of the cells that are there, shape (n,). A NaN counts as missing.

    Raises:
        DataError: The type has no order.

    """
    cells = plain(array)
    if not is_orderable(cells.type):
        raise DataError(f"cells of type {cells.type} have no order")
    valid: Mask = np.asarray(cells.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
    ordinals = _ordinals(cells)
    if ordinals.dtype == np.float64:
        valid &= ~np.isnan(ordinals)
    ordinals[~valid] = 0
    return ordinals, valid


def _ordinals(cells: pa.Array) -> Ordinals:
    """Ordinals of plain cells, a fresh array; anything stands where a cell is null."""
    kind = cells.type
    if pa.types.is_boolean(kind):
        return _buffer(cells.cast(pa.int8()), np.dtype(np.int8)).astype(np.int64)
    if pa.types.is_decimal(kind):
        return _decimal_ordinals(cells)
    dtype = _storage_dtype(kind)
    stored = _buffer(cells, dtype)
    if pa.types.is_uint64(kind):
        flipped: npt.NDArray[np.int64] = (stored ^ _SIGN_BIT).view(np.int64)
        return flipped
    if pa.types.is_floating(kind):
        limits = np.finfo(dtype)
        return np.clip(stored.astype(np.float64), float(limits.min), float(limits.max))
    ordinals: npt.NDArray[np.int64] = stored.astype(np.int64)
    return ordinals // _MS_PER_DAY if pa.types.is_date64(kind) else ordinals


def _storage_dtype(kind: pa.DataType) -> np.dtype[Any]:
    """Numpy type of the values in the buffer of a number, date, time, timestamp or duration."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return dtype
    return np.dtype(np.int32 if kind.bit_width == 32 else np.int64)


def _buffer(cells: pa.Array, dtype: np.dtype[Any], width: int = 1) -> npt.NDArray[Any]:
    """Values of a fixed-width array as they lie in memory, shape (n,), or (n, width) for several words."""
    data = cells.buffers()[1]
    shape = (len(cells),) if width == 1 else (len(cells), width)
    if data is None or len(cells) == 0:
        return np.zeros(shape, dtype=dtype)
    words = np.frombuffer(data, dtype=dtype, count=(cells.offset + len(cells)) * width)
    return words[cells.offset * width :].reshape(shape)


def _decimal_ordinals(cells: pa.Array) -> Ordinals:
    width = cells.type.bit_width
    if width == 32:
        return _buffer(cells, np.dtype(np.int32)).astype(np.int64)
    words = _buffer(cells, np.dtype(np.uint64), width // 64).reshape(len(cells), width // 64)
    if is_integer_like(cells.type):
        return words[:, 0].astype(np.uint64).view(np.int64)
    # The magnitude first: adding words of a small negative number would cancel all of its digits.
    negative: Mask = words[:, -1] >= _SIGN_BIT
    magnitude = np.where(negative[:, None], _negated(words), words)
    total = np.zeros(len(cells), dtype=np.float64)
    for word in range(magnitude.shape[1] - 1, -1, -1):
        total = total * 2.0**64 + magnitude[:, word].astype(np.float64)
    return np.where(negative, -total, total)


def _negated(words: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Two's complement of little-endian words, shape (n, words)."""
    result = ~words.astype(np.uint64)
    carry = np.ones(len(words), dtype=np.bool_)
    for word in range(result.shape[1]):
        result[:, word] += carry.astype(np.uint64)
        carry &= result[:, word] == 0
    return result


def from_ordinal(values: npt.ArrayLike, valid: npt.ArrayLike, arrow_type: pa.DataType) -> pa.Array:
    """Convert ordinals back to cells.

    Args:
        values: Ordinals, shape (n,), int64 or float64; fractions are rounded to even where the type has none,
            and values beyond the type's range become its nearest end.
        valid: Which cells are there, shape (n,); the others become null.
        arrow_type: Exact type of the result.

    Returns:
        n cells.

    Raises:
        DataError: The type has no order.

    """
    kind = base_type(arrow_type)
    if not is_orderable(kind):
        raise DataError(f"cells of type {arrow_type} have no order")
    mask: Mask = np.asarray(valid, dtype=np.bool_)
    ordinals = np.asarray(values)
    if ordinals.dtype != np.float64:
        ordinals = ordinals.astype(np.int64)
    ordinals = np.where(mask, ordinals, ordinals.dtype.type(0))
    if pa.types.is_boolean(kind):
        cells = pa.array(_integers(ordinals, 0, 1) != 0, mask=~mask)
    else:
        data = pa.py_buffer(np.ascontiguousarray(_stored(ordinals, kind)))
        bitmap = None if mask.all() else pa.array(mask).buffers()[1]
        cells = pa.Array.from_buffers(kind, len(mask), [bitmap, data])
    return restore_type(cells, arrow_type)


def _stored(ordinals: Ordinals, kind: pa.DataType) -> npt.NDArray[Any]:
    """Values as the type's buffer holds them."""
    if pa.types.is_decimal(kind):
        return _decimal_words(ordinals, kind)
    dtype = _storage_dtype(kind)
    if pa.types.is_floating(kind):
        limits = np.finfo(dtype)
        return np.clip(ordinals.astype(np.float64), float(limits.min), float(limits.max)).astype(dtype)
    if pa.types.is_uint64(kind):
        return _integers(ordinals, _INT64.min, _INT64.max).view(np.uint64) ^ _SIGN_BIT
    if pa.types.is_date64(kind):
        limit = _INT64.max // _MS_PER_DAY
        return _integers(ordinals, -limit, limit) * _MS_PER_DAY
    low, high = _range(kind)
    return _integers(ordinals, low, high).astype(dtype)


def _range(kind: pa.DataType) -> tuple[int, int]:
    """Smallest and largest ordinal of an integer, date, time, timestamp or duration."""
    if pa.types.is_time(kind):
        return 0, _DAY_NS // _UNIT_NS[kind.unit] - 1
    limits = np.iinfo(_storage_dtype(kind))
    return int(limits.min), int(limits.max)


def _integers(ordinals: Ordinals, low: int, high: int) -> npt.NDArray[np.int64]:
    """Round and clip to int64 in [low, high]."""
    if ordinals.dtype == np.float64:
        rounded = np.nan_to_num(np.rint(ordinals), nan=0.0, posinf=2.0**63, neginf=-(2.0**63))
        whole = np.clip(rounded, -(2.0**63), np.nextafter(2.0**63, 0.0)).astype(np.int64)
        whole[rounded >= 2.0**63] = _INT64.max
    else:
        whole = ordinals.astype(np.int64)
    clipped: npt.NDArray[np.int64] = np.clip(whole, low, high)
    return clipped


def _decimal_words(ordinals: Ordinals, kind: pa.DataType) -> npt.NDArray[Any]:
    """Two's complement little-endian words of unscaled values, clipped to the precision; shape (n, words)."""
    limit = 10 ** int(kind.precision) - 1
    width = kind.bit_width
    if is_integer_like(kind):
        whole = _integers(ordinals, -limit, limit)
        if width == 32:
            return whole.astype(np.int32)
        sign_words = np.repeat((whole >> 63)[:, None], width // 64 - 1, axis=1)
        return np.concatenate([whole[:, None], sign_words], axis=1)
    # Doubles hold 15 decimal digits: writing more would show 12.34 as 12.340000000000000262.
    floats = np.nan_to_num(np.rint(ordinals.astype(np.float64)), nan=0.0)
    largest = float(f"9.99999999999999e{int(kind.precision) - 1}")
    floats = np.clip(floats, -largest, largest)
    text = np.where(np.abs(floats) <= 2.0**53, np.char.mod("%.0f", floats), np.char.mod("%.14e", floats))
    unscaled = pa.array(text.tolist(), type=pa.string()).cast(_unscaled_type(kind))
    return _buffer(unscaled, np.dtype(np.uint64), width // 64)


def _unscaled_type(kind: pa.DataType) -> pa.DataType:
    maker = pa.decimal256 if pa.types.is_decimal256(kind) else pa.decimal128
    return maker(int(kind.precision), 0)


def ordinal_of(value: float | int | str, arrow_type: pa.DataType) -> int | float:
    """Ordinal of a bound as schemas and specs write it: a number, or ISO 8601 for dates and times.

    A duration is written as a count of its unit; a time without zone in a column with one counts as UTC.

    Raises:
        ValueError: The value is not one of the type's.

    """
    kind = base_type(arrow_type)
    if isinstance(value, str) and is_temporal(kind) and not pa.types.is_duration(kind):
        return int(to_ordinal(_parsed(value, kind))[0][0])
    if isinstance(value, str) or not is_orderable(kind):
        raise ValueError(f"{value!r} is not a value of type {kind}")
    if pa.types.is_decimal(kind):
        return _unscaled(value, kind)
    if pa.types.is_floating(kind):
        return float(value)
    whole = int(value) if isinstance(value, int) or float(value).is_integer() else round(value)
    if pa.types.is_uint64(kind):
        whole -= 2**63
    return max(min(whole, int(_INT64.max)), int(_INT64.min))


def _parsed(text: str, kind: pa.DataType) -> pa.Array:
    """One cell of a date, time or timestamp type from its ISO text."""
    text = text.strip()
    if pa.types.is_time(kind):
        attempts = [(f"1970-01-01T{text}", pa.timestamp(kind.unit))]
    elif pa.types.is_timestamp(kind) and kind.tz is not None:
        attempts = [(text, kind), (text, pa.timestamp(kind.unit))]
    else:
        attempts = [(text, kind), (text, pa.timestamp("us"))]
    for written, through in attempts:
        try:
            return pa.array([written]).cast(through).cast(kind)
        except pa.ArrowException:
            continue
    raise ValueError(f"{text!r} is not a value of type {kind}: write ISO 8601")


def _unscaled(value: float | int, kind: pa.DataType) -> int | float:
    try:
        with localcontext() as context:
            context.prec = 100
            scaled = Decimal(repr(value)).scaleb(int(kind.scale)).to_integral_value(ROUND_HALF_EVEN)
            unscaled = int(scaled)
    except (InvalidOperation, OverflowError, ValueError):
        raise ValueError(f"{value!r} is not a value of type {kind}") from None
    limit = 10 ** int(kind.precision) - 1
    unscaled = max(-limit, min(limit, unscaled))
    return unscaled if is_integer_like(kind) else float(unscaled)


def bound_of(ordinal: int | float, arrow_type: pa.DataType) -> int | float | str | None:
    """Write an ordinal as schemas and specs do: the inverse of `ordinal_of`.

    Returns:
        A number; ISO 8601 for dates, times and timestamps (with zone: in UTC); None for an instant that
        ISO 8601 cannot write, such as the year 300,000.

    """
    kind = base_type(arrow_type)
    if pa.types.is_floating(kind):
        return float(ordinal)
    if pa.types.is_decimal(kind):
        scale = int(kind.scale)
        with localcontext() as context:
            context.prec = 100
            exact = Decimal(int(ordinal)).scaleb(-scale)
        return int(exact) if scale <= 0 else float(exact)
    whole = int(ordinal)
    if pa.types.is_boolean(kind):
        return whole
    if pa.types.is_uint64(kind):
        return whole + 2**63
    if not is_temporal(kind) or pa.types.is_duration(kind):
        return whole
    return _iso(whole, kind)


def _iso(ordinal: int, kind: pa.DataType) -> str | None:
    shown = pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz is not None else kind
    try:
        text: str = from_ordinal([ordinal], [True], shown).cast(pa.string())[0].as_py().replace(" ", "T")
        return text if ordinal_of(text, kind) == ordinal else None
    except (ValueError, pa.ArrowException):
        return None
