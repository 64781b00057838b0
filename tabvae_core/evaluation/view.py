"""Tables as the figures see them: every column a float64 vector, whatever its Arrow type.

Measures (numbers, dates, times, durations) keep their value, times in seconds. Categories become codes shared
by all tables. Nulls, and the NaN of floats, become NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.errors import DataError
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import Kind
from tabvae_core.tables import InMemoryTable, collect

__all__ = [
    "ColumnView",
    "Floats",
    "Side",
    "TableView",
    "Unit",
    "aligned",
    "distinct_values",
    "measure",
    "modelled",
    "null_share",
    "picture_view",
    "plain",
    "row_codes",
    "sampled",
    "table_view",
]

Floats = npt.NDArray[np.float64]
Unit = Literal["number", "date", "datetime", "time", "duration"]

MODELLED = frozenset({Kind.NUMBER, Kind.CATEGORY, Kind.BOOLEAN, Kind.DATETIME})

MIN_THINNED = 1_000
"""Rows that a thinned table keeps, however wide it is."""

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class Side(StrEnum):
    """Whose rows."""

    HOLDOUT = "holdout"
    SYNTHETIC = "synthetic"
    TRAIN = "train"


@dataclass(frozen=True)
class ColumnView:
    """One column of all tables.

    Args:
        name: The column's name.
        kind: Its kind in the schema.
        unit: What a measure's value means; "number" for categories too.
        labels: Categories in code order, over all tables; None for a measure.
        values: By side, shape (rows of that side,): the measure, or the category's code; NaN where null.

    """

    name: str
    kind: Kind
    unit: Unit
    labels: tuple[str, ...] | None
    values: Mapping[Side, Floats]

    @property
    def is_measure(self) -> bool:
        """Whether the values have an order and a distance."""
        return self.labels is None


@dataclass(frozen=True)
class TableView:
    """The modelled columns of all tables."""

    columns: tuple[ColumnView, ...]
    rows: Mapping[Side, int]

    @property
    def has_train(self) -> bool:
        """Whether there are training rows, and so floors."""
        return Side.TRAIN in self.rows

    def matrix(self, side: Side) -> Floats:
        """Columns side by side, shape (rows, columns)."""
        if not self.columns:
            return np.empty((self.rows[side], 0))
        return np.column_stack([column.values[side] for column in self.columns])

    def thinned(self, cells: int, seed: int) -> TableView:
        """At most so many cells a side, rows chosen uniformly: what bounds the time of a model on a wide table."""
        most = max(MIN_THINNED, cells // max(len(self.columns), 1))
        if max(self.rows.values()) <= most:
            return self
        rng = np.random.default_rng(seed)
        chosen = {
            side: np.sort(rng.permutation(rows)[:most]) if rows > most else np.arange(rows)
            for side, rows in self.rows.items()
        }
        columns = tuple(
            replace(column, values={side: column.values[side][rows] for side, rows in chosen.items()})
            for column in self.columns
        )
        return TableView(columns, {side: len(rows) for side, rows in chosen.items()})


def modelled(schema: TableSchema) -> tuple[ColumnSchema, ...]:
    """Columns that the figures count: all but identifiers, text, nested and constant ones."""
    return tuple(c for c in schema.columns if c.kind in MODELLED and c.unlearnable != "drop")


def sampled(table: pa.Table, rows: int, seed: int) -> pa.Table:
    """At most `rows` uniformly chosen rows."""
    return table if table.num_rows <= rows else collect(InMemoryTable(table), max_rows=rows, seed=seed)


def table_view(tables: Mapping[Side, pa.Table], columns: Sequence[ColumnSchema]) -> TableView:
    """Bring the named columns of all tables onto common ground; numbers of two values in the first are categories.

    Raises:
        DataError: A table lacks a column, or holds it in a type that does not compare.

    """
    views = tuple(_column_view(aligned(tables, c.name), c) for c in columns)
    return TableView(views, {side: table.num_rows for side, table in tables.items()})


def picture_view(holdout: pa.Table, synthetic: pa.Table, schema: TableSchema, *, max_rows: int, seed: int) -> TableView:
    """The rows that pictures are made of: as many of each side as were measured at most.

    Raises:
        DataError: A table does not fit the schema.

    """
    sides = {Side.HOLDOUT: holdout, Side.SYNTHETIC: synthetic}
    return table_view({side: sampled(table, max_rows, seed) for side, table in sides.items()}, modelled(schema))


def null_share(array: pa.ChunkedArray) -> float:
    """Share of nulls, the NaN of floats among them, in [0, 1]."""
    rows = len(array)
    return (pc.sum(pc.is_null(array, nan_is_null=True)).as_py() or 0) / rows if rows else 0.0


def _take(table: pa.Table, name: str, side: Side) -> pa.ChunkedArray:
    found = table.schema.get_all_field_indices(name)
    if len(found) != 1:
        what = "has no column" if not found else "has more than one column"
        raise DataError(
            f"the {_NAMES[side]} table {what} {name!r}",
            hint="all tables of an evaluation must have the columns of the schema, each once",
        )
    return plain(table.column(found[0]))


_NAMES = {Side.HOLDOUT: "held-out", Side.SYNTHETIC: "synthetic", Side.TRAIN: "training"}


def plain(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """The array in a layout that Arrow's kernels know: no dictionaries, extension types, views or runs."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(pa.chunked_array([chunk.storage for chunk in array.chunks], type=kind.storage_type))
    if pa.types.is_dictionary(kind):
        return plain(array.cast(kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array))
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return array.cast(pa.decimal128(kind.precision, kind.scale))
    if kind in (pa.string_view(), pa.binary_view()):
        return array.cast(pa.large_string() if kind == pa.string_view() else pa.large_binary())
    return array


def row_codes(tables: Mapping[Side, pa.Table], column: ColumnSchema) -> dict[Side, npt.NDArray[np.int64]]:
    """Codes of a column's exact values, shared by all tables; equal cells have equal codes, nulls the code 0.

    Raises:
        DataError: A table lacks the column, or holds it in a type that does not compare.

    """
    arrays = aligned(tables, column.name)
    _, indices = distinct_values(
        pa.chunked_array([c for a in arrays.values() for c in a.chunks], _type(arrays)), texts=False
    )
    cuts = np.cumsum([len(array) for array in arrays.values()])[:-1]
    return dict(zip(arrays, np.split(indices + 1, cuts), strict=True))


def aligned(tables: Mapping[Side, pa.Table], name: str) -> dict[Side, pa.ChunkedArray]:
    """A column of all tables in one Arrow type.

    Raises:
        DataError: A table lacks the column, or holds it in a type that does not compare.

    """
    arrays = {side: _take(table, name, side) for side, table in tables.items()}
    types = {str(array.type) for array in arrays.values()}
    if len(types) == 1:
        return arrays
    known = {c for array in arrays.values() if (c := _class(array.type)) != "null"}
    common = _COMMON.get(next(iter(known), "null")) if len(known) <= 1 else None
    if common is None:
        types_by_side = ", ".join(f"{_NAMES[side]} {array.type}" for side, array in arrays.items())
        raise DataError(
            f"column {name!r} has types that do not compare: {types_by_side}",
            hint="cast the column to one type in all tables",
        )
    return {side: array.cast(common, safe=False) for side, array in arrays.items()}


def _type(arrays: Mapping[Side, pa.ChunkedArray]) -> pa.DataType:
    return next(iter(arrays.values())).type


def _column_view(arrays: Mapping[Side, pa.ChunkedArray], column: ColumnSchema) -> ColumnView:
    known = _class(_type(arrays))
    if known in ("number", "null", *_TIMES) and column.kind in (Kind.NUMBER, Kind.DATETIME):
        values = _bounded({side: measure(array) for side, array in arrays.items()})
        if known in _TIMES or _distinct(next(iter(values.values()))) > 2:
            return ColumnView(column.name, column.kind, _unit(_type(arrays)), None, values)
    labels, codes = _to_codes(arrays)
    return ColumnView(column.name, column.kind, "number", labels, codes)


_TIMES = ("instant", "time", "duration")

_COMMON: dict[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "number": pa.float64(),
    "instant": pa.timestamp("us"),
    "time": pa.time64("ns"),
    "duration": pa.duration("us"),
    "text": pa.large_string(),
    "bytes": pa.large_binary(),
}
"""What columns of one class and several types are compared as."""


def _class(kind: pa.DataType) -> str:
    for name, tests in _CLASSES.items():
        if any(test(kind) for test in tests):
            return name
    return "other"


_CLASSES = {
    "null": (pa.types.is_null,),
    "boolean": (pa.types.is_boolean,),
    "number": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    "instant": (pa.types.is_date, pa.types.is_timestamp),
    "time": (pa.types.is_time,),
    "duration": (pa.types.is_duration,),
    "text": (pa.types.is_string, pa.types.is_large_string),
    "bytes": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary),
}


def _unit(kind: pa.DataType) -> Unit:
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "datetime"
    if pa.types.is_time(kind):
        return "time"
    return "duration" if pa.types.is_duration(kind) else "number"


def measure(array: pa.ChunkedArray) -> Floats:
    """Numbers as they are, times in seconds; NaN where null. Shape (n,)."""
    kind, scale = array.type, 1.0
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_temporal(kind):
        scale = _seconds(kind)
        array = array.cast(pa.int32() if kind in (pa.date32(), pa.time32("s"), pa.time32("ms")) else pa.int64())
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    values = np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    return values * scale


def _seconds(kind: pa.DataType) -> float:
    if kind == pa.date32():
        return 86_400.0
    return 1e-3 if kind == pa.date64() else _SECONDS[kind.unit]


def _bounded(values: dict[Side, Floats]) -> dict[Side, Floats]:
    """Infinities become the outermost finite value, so that means, squares and bins exist."""
    known = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    return {side: np.clip(v, max(low, -_HUGE), min(high, _HUGE)) for side, v in values.items()}


_HUGE = 1e100
"""Larger values count as this: their squares would overflow."""


def _distinct(values: Floats) -> int:
    return len(np.unique(values[~np.isnan(values)]))


def _to_codes(arrays: Mapping[Side, pa.ChunkedArray]) -> tuple[tuple[str, ...], dict[Side, Floats]]:
    """Codes in the sorted order of all tables' categories."""
    encoded = {side: distinct_values(array) for side, array in arrays.items()}
    labels = sorted(set().union(*(names for names, _ in encoded.values())))
    position = {label: code for code, label in enumerate(labels)}
    codes = {}
    for side, (names, indices) in encoded.items():
        table = np.array([position[name] for name in names] + [np.nan], dtype=np.float64)
        codes[side] = table[indices]
    return tuple(labels), codes


def distinct_values(array: pa.ChunkedArray, *, texts: bool = True) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Distinct values, as text where wanted, and each row's index into them; -1 where null."""
    if pa.types.is_null(array.type):
        return [], np.full(len(array), -1, dtype=np.int64)
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    if pa.types.is_nested(array.type):
        array = pa.chunked_array([pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())])
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    combined = array.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        combined = pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], array.type)
    encoded = combined.dictionary_encode()
    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return _texts(encoded.dictionary) if texts else [], indices


def _texts(values: pa.Array) -> list[str]:
    kind = _class(values.type)
    if kind == "bytes":
        return [value.hex() for value in values.to_pylist()]
    if kind == "duration":
        values = values.cast(pa.int64()).cast(pa.string())
    elif kind in ("number", "instant", "time", "boolean"):
        values = _unzoned(values).cast(pa.string())
    return [str(value) for value in values.to_pylist()]


def _unzoned(values: pa.Array) -> pa.Array:
    """Instants in UTC: printing in a zone needs a zone database that some machines lack."""
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        return values.cast(pa.timestamp(values.type.unit))
    return values
