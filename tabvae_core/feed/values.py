"""Rows on their way into a database, as CSV or as Python values."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

__all__ = ["as_csv", "as_rows"]


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
