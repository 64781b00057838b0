"""Columns in types that databases and table formats know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tabvae_core.tables import TableSource

__all__ = ["as_plain", "plain_batches", "plain_type"]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Say in which Arrow type values travel: one that databases know.

    Dictionaries become their values, instants microseconds (UTC where they have a zone), durations microseconds as an
    integer, nested values JSON text.
    """
    is_a = pa.types
    if is_a.is_dictionary(kind):
        return plain_type(kind.value_type)
    if is_a.is_uint64(kind):
        return pa.decimal128(20, 0)
    if is_a.is_unsigned_integer(kind):
        return {8: pa.int16(), 16: pa.int32()}.get(kind.bit_width, pa.int64())
    if is_a.is_float16(kind):
        return pa.float32()
    if is_a.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if is_a.is_duration(kind):
        return pa.int64()
    if is_a.is_date(kind):
        return pa.date32()
    if is_a.is_time(kind):
        return pa.time64("us")
    if is_a.is_binary(kind) or is_a.is_large_binary(kind) or is_a.is_fixed_size_binary(kind):
        return pa.binary()
    if is_a.is_decimal(kind) or is_a.is_boolean(kind) or is_a.is_integer(kind) or is_a.is_floating(kind):
        return kind
    return pa.string()


def as_plain(array: pa.Array, kind: pa.DataType | None = None) -> pa.Array:
    """Bring a column into its plain type, and from there into another.

    Args:
        array: The column.
        kind: Type in the end; None: the plain type.

    Raises:
        pa.ArrowInvalid: A value does not fit that type. Nanoseconds are cut, nothing else is.

    """
    plain = plain_type(array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_nested(array.type):
        array = pa.array([_json(value) for value in array.to_pylist()], pa.string())
    elif pa.types.is_duration(array.type):
        array = array.cast(pa.duration("us"), safe=False).cast(pa.int64())
    elif pa.types.is_timestamp(array.type) or pa.types.is_time(array.type):
        array = array.cast(plain, safe=False)
    array = array.cast(plain)
    return array if kind is None or array.type.equals(kind) else array.cast(kind)


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def plain_batches(source: TableSource, columns: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Stream columns of a table under the names and in the types of a schema, in its order.

    Raises:
        pa.ArrowInvalid: A value does not fit its type.

    """
    for batch in source.batches(columns):
        arrays = [as_plain(array, field.type) for array, field in zip(batch.columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
