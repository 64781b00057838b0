"""Tables of every Arrow type that Parquet brings, for property tests.

Hypothesis chooses types, shapes and a seed; numpy fills the cells, so that tables stay quick to draw.
"""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import strategies as st

_EPOCH = dt.datetime(1970, 1, 1)
_UNITS = ("s", "ms", "us", "ns")

INTEGERS = [getattr(pa, f"{sign}int{width}")() for sign in ("", "u") for width in (8, 16, 32, 64)]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [
    pa.decimal32(7, 2), pa.decimal64(15, 3), pa.decimal128(10, 2), pa.decimal128(18, 0),
    pa.decimal128(38, 10), pa.decimal128(20, 0), pa.decimal256(60, 5),
]  # fmt: skip
TIMES = [
    pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    *[pa.timestamp(unit) for unit in _UNITS],
    *[pa.timestamp(unit, zone) for unit in _UNITS for zone in ("UTC", "Europe/Berlin", "+05:30")],
    *[pa.duration(unit) for unit in _UNITS],
]  # fmt: skip
ORDERABLE = [pa.bool_(), *INTEGERS, *FLOATS, *DECIMALS, *TIMES]
TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
BYTES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(16)]
DICTIONARIES = [
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string(), ordered=True),
    pa.dictionary(pa.uint16(), pa.large_string()), pa.dictionary(pa.int32(), pa.int64()),
    pa.dictionary(pa.int32(), pa.timestamp("us")),
]  # fmt: skip
NESTED = [
    pa.list_(pa.int64()), pa.struct([("a", pa.int32()), ("b", pa.string())]),
    pa.map_(pa.string(), pa.int32()), pa.month_day_nano_interval(),
]  # fmt: skip
OTHERS = [pa.null(), pa.uuid(), pa.run_end_encoded(pa.int32(), pa.string())]
ALL_TYPES = [*ORDERABLE, *TEXTS, *BYTES, *DICTIONARIES, *NESTED, *OTHERS]

SHAPES = ("free", "few", "constant", "nulls", "all null")


def value(kind: pa.DataType, rng: np.random.Generator) -> Any:
    """One cell of a type, as Python or as an integer of the type's unit."""
    if pa.types.is_boolean(kind):
        return bool(rng.integers(2))
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        return int(rng.integers(limits.min, limits.max, dtype=limits.dtype, endpoint=True))
    if pa.types.is_floating(kind):
        return float(kind.to_pandas_dtype()(rng.choice([rng.normal(), 0.0, 1e3 * rng.random()])))
    if pa.types.is_decimal(kind):
        digits = min(int(kind.precision), 15)
        return decimal.Decimal(int(rng.integers(-(10**digits) + 1, 10**digits))).scaleb(-int(kind.scale))
    if pa.types.is_date(kind):
        return _EPOCH.date() + dt.timedelta(days=int(rng.integers(-200_000, 200_000)))
    if pa.types.is_time(kind):
        per_day = 86_400 * 10 ** (3 * _UNITS.index(kind.unit))
        return int(rng.integers(per_day))
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return int(rng.integers(-(10**9), 10**9)) * 10 ** (3 * _UNITS.index(kind.unit)) + int(rng.integers(1000))
    return _other_value(kind, rng)


def _other_value(kind: pa.DataType, rng: np.random.Generator) -> Any:
    text = str(
        rng.choice(["", "Köln", f"C-{rng.integers(10**6):06d}", "two words", "x" * int(rng.integers(200)), "\0\x02"])
    )
    if pa.types.is_fixed_size_binary(kind):
        return rng.bytes(kind.byte_width)
    if pa.types.is_list(kind):
        return [1, 2, None]
    if pa.types.is_struct(kind):
        return {"a": int(rng.integers(9)), "b": text}
    if pa.types.is_map(kind):
        return [("k", 1)]
    if pa.types.is_interval(kind):
        return pa.MonthDayNano([1, 2, 3])
    return text.encode() if "binary" in str(kind) else text


def column(kind: pa.DataType, rows: int, shape: str, rng: np.random.Generator) -> pa.Array:
    """A column of a type: freely drawn cells, few different ones, one, some nulls, or nulls only."""
    if pa.types.is_null(kind) or shape == "all null":
        return pa.nulls(rows, kind)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, column(kind.storage_type, rows, shape, rng))
    if pa.types.is_dictionary(kind):
        plain = column(kind.value_type, rows, shape, rng).dictionary_encode()
        return pa.DictionaryArray.from_arrays(
            plain.indices.cast(kind.index_type), plain.dictionary, ordered=kind.ordered
        )
    if pa.types.is_run_end_encoded(kind):
        return pc.run_end_encode(column(kind.value_type, rows, shape, rng), run_end_type=kind.run_end_type)
    pool = [value(kind, rng) for _ in range({"constant": 1, "few": 3}.get(shape, rows))]
    cells = [pool[int(i)] for i in rng.integers(len(pool), size=rows)] if shape in ("constant", "few") else pool
    if shape == "nulls":
        cells = [None if gone else cell for cell, gone in zip(cells, rng.random(rows) < 0.3, strict=True)]
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return pa.array(cells, pa.int64()).cast(kind)
    if pa.types.is_time(kind):
        return pa.array(cells, pa.int64()).cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)
    if pa.types.is_float16(kind):
        return pa.array([None if cell is None else np.float16(cell) for cell in cells], kind)
    return pa.array(cells, kind)


@st.composite
def columns(draw: st.DrawFn, types: list[pa.DataType] | None = None, rows: int | None = None) -> pa.Array:
    """Draw one column of the given types, any by default."""
    kind = draw(st.sampled_from(types or ALL_TYPES))
    size = draw(st.integers(0, 40)) if rows is None else rows
    shape = draw(st.sampled_from(SHAPES))
    return column(kind, size, shape, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))


@st.composite
def arrow_tables(
    draw: st.DrawFn, *, types: list[pa.DataType] | None = None, min_rows: int = 10, max_rows: int = 60
) -> pa.Table:
    """Draw a table of 1 to 6 columns; fields without nulls may forbid them, and the table has metadata."""
    rows = draw(st.integers(min_rows, max_rows))
    cells = draw(st.lists(columns(types=types, rows=rows), min_size=1, max_size=6))
    kinds = [array.type for array in cells]
    strict = draw(st.lists(st.booleans(), min_size=len(cells), max_size=len(cells)))
    fields = []
    for number, (array, kind, forbid) in enumerate(zip(cells, kinds, strict, strict=True)):
        may = pa.types.is_nested(kind) or pa.types.is_null(kind) or array.null_count > 0 or not forbid
        wrapped = pa.types.is_interval(kind) or pa.types.is_run_end_encoded(kind)
        fields.append(pa.field(f"c{number}", kind, nullable=bool(may or wrapped)))
    return pa.Table.from_arrays(cells, schema=pa.schema(fields, metadata={b"made": b"here"}))
