"""Rows on their way into a database: Arrow batches of plain types, CSV, or Python values."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from tabvae_core.feed.types import plain_type

__all__ = ["as_csv", "as_plain", "as_rows"]


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


def as_csv(batch: pa.RecordBatch) -> bytes:
    """Write a batch of plain types as CSV: texts quoted, nulls empty, bytes as `\\x` and hexadecimal digits."""
    columns = [_printable(column) for column in batch.columns]
    writer = io.BytesIO()
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    csv.write_csv(pa.RecordBatch.from_arrays(columns, names=batch.schema.names), writer, options)
    return writer.getvalue()


def _printable(column: pa.Array) -> pa.Array:
    if pa.types.is_binary(column.type):
        return pa.array([None if value is None else "\\x" + value.hex() for value in column.to_pylist()], pa.string())
    if pa.types.is_decimal(column.type):
        # Arrow's own text of a decimal may have an exponent, and has in its CSV no null.
        return pa.array([None if value is None else f"{value:f}" for value in column.to_pylist()], pa.string())
    return column


def as_rows(batch: pa.RecordBatch, *, text: Sequence[pa.DataType] = ()) -> list[tuple[Any, ...]]:
    """Take a batch of plain types apart into rows of Python values.

    Args:
        batch: The rows.
        text: Types whose values are written as text, ISO 8601 for dates and times.

    """
    columns = [_texts(column) if column.type in text else column.to_pylist() for column in batch.columns]
    return list(zip(*columns, strict=True)) if columns else []


def _texts(column: pa.Array) -> list[str | None]:
    found: list[str | None] = pc.cast(column, pa.string()).to_pylist()
    return found
