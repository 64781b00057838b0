"""Values fixed for every row, read by the type of their column: `age=35` an integer, `city=35` a string."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs.ordinal import plain, restore_type
from tabvae_core.errors import SpecError
from tabvae_core.schema import TableSchema
from tabvae_core.spec import Kind, PrivacySpec

if TYPE_CHECKING:
    from tabvae_core.tables import TableSource

__all__ = ["GivenColumn", "check_learnable", "given_cells", "given_values", "split_pairs", "with_given"]

_TRUE, _FALSE = {"true", "t", "yes", "1"}, {"false", "f", "no", "0"}


@dataclass(frozen=True)
class GivenColumn:
    """Given cells of one column in n rows.

    Args:
        cells: The cells, of exactly the column's type.
        mask: True where a cell is given, shape (n,); a given cell may be null.

    """

    cells: pa.Array
    mask: npt.NDArray[np.bool_]


def given_cells(given: Mapping[str, Any] | pa.Table, schema: TableSchema, rows: int) -> dict[str, GivenColumn]:
    """Turn what is given into cells.

    Args:
        given: A value for each of some columns, the same in every row; or a table of n rows, whose nulls are to
            be filled.
        schema: The learned table.
        rows: n.

    Raises:
        SpecError: There is no such column.

    """
    arrow = schema.arrow
    names = given.column_names if isinstance(given, pa.Table) else list(given)
    for name in names:
        if name not in schema.names:
            raise SpecError(f"given: there is no column {name!r}", hint=f"columns: {', '.join(schema.names)}")
    if isinstance(given, pa.Table):
        columns = {name: given.column(name).combine_chunks() for name in names}
        columns = {n: pa.concat_arrays(c.chunks) if isinstance(c, pa.ChunkedArray) else c for n, c in columns.items()}
        return {n: GivenColumn(c, c.is_valid().to_numpy(zero_copy_only=False)) for n, c in columns.items()}
    every = np.ones(rows, dtype=np.bool_)
    return {name: GivenColumn(pa.array([given[name]] * rows, type=arrow.field(name).type), every) for name in names}


def with_given(table: pa.Table, given: Mapping[str, GivenColumn]) -> pa.Table:
    """Set given cells to exactly what was given, also where a codec knows values only roughly."""
    for name, part in given.items():
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        cells = part.cells
        if not part.mask.all():
            drawn = plain(table.column(index))
            cells = restore_type(pc.if_else(pa.array(part.mask), plain(cells), drawn), field.type)
        table = table.set_column(index, field, cells)
    return table


def split_pairs(pairs: tuple[str, ...]) -> dict[str, str]:
    """Split `column=value` arguments of a command line.

    Raises:
        SpecError: A pair has no equals sign, or two pairs name one column.

    """
    result: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise SpecError(
                f"--given must be column=value, however: {pair!r}", hint="for example --given segment=premium"
            )
        if name in result:
            raise SpecError(f"--given names column {name!r} twice", hint="give each column once")
        result[name] = value
    return result


def given_values(given: Mapping[str, Any], schema: TableSchema) -> dict[str, Any]:
    """Turn given values, texts or YAML scalars, into Python values of the columns' Arrow types.

    An empty text and the word `null` mean null, except in a column of strings, where only YAML's own null does.

    Raises:
        SpecError: A column does not exist, cannot be given, or the value is not of its type.

    """
    return {name: _value(name, raw, schema) for name, raw in given.items()}


def check_learnable(given: Mapping[str, Any], rows: TableSource, schema: TableSchema, privacy: PrivacySpec) -> None:
    """Refuse given categories that a model of these rows will not know, in one pass over their columns.

    A model refuses them as well, when it draws; here that is known before a training of hours.

    Args:
        given: Given values, as a spec holds them.
        rows: The training rows.
        schema: Their schema.
        privacy: Decides which categories are too rare to be learned.

    Raises:
        SpecError: Names the column.

    """
    from tabvae_core.codecs.table import fitter_for

    values = given_values(given, schema)
    names = [name for name in values if schema.column(name).kind in (Kind.CATEGORY, Kind.BOOLEAN)]
    if not names:
        return
    fields = [schema.arrow.field(name) for name in names]
    fitters = [fitter_for(schema.column(field.name), field.type, privacy) for field in fields]
    first = 0
    for batch in rows.batches(names):
        for fitter, cells in zip(fitters, batch.columns, strict=True):
            fitter.observe(cells, first)
        first += batch.num_rows
    for field, fitter in zip(fields, fitters, strict=True):
        if not fitter.finish().knows(pa.array([values[field.name]], field.type)):
            raise SpecError(
                f"given: the value for column {field.name!r} is none of its categories, or too rare to be learned",
                hint="check its spelling; categories of fewer rows than privacy.min_category_rows are not learned",
            )


def _value(name: str, raw: Any, schema: TableSchema) -> Any:
    if name not in schema.names:
        raise SpecError(f"given: there is no column {name!r}", hint=f"columns: {', '.join(schema.names)}")
    column, kind = schema.column(name), schema.arrow.field(name).type
    if column.kind in (Kind.TEXT, Kind.NESTED, Kind.IDENTIFIER):
        raise SpecError(
            f"given: column {name!r} is of kind {column.kind.value} and cannot be given",
            hint="give a number, category, boolean or date column",
        )
    stringlike = pa.types.is_string(_values_of(kind)) or pa.types.is_large_string(_values_of(kind))
    if raw is None or (isinstance(raw, str) and not stringlike and raw.strip().lower() in {"", "null"}):
        if not column.nullable:
            raise SpecError(f"given: column {name!r} has no nulls", hint="give a value")
        return None
    try:
        return _parse(raw, _values_of(kind))
    except (ValueError, TypeError, ArithmeticError, pa.ArrowException):
        raise SpecError(
            f"given: the value for column {name!r} is not of its type, {kind}",
            hint=f"write a value of type {kind}",
        ) from None


def _values_of(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _parse(raw: Any, kind: pa.DataType) -> Any:
    if pa.types.is_boolean(kind):
        return _boolean(raw)
    if pa.types.is_timestamp(kind):
        return _instant(str(raw), kind)
    if pa.types.is_duration(kind):
        return pa.scalar(int(raw), pa.int64()).cast(kind).as_py()
    if isinstance(raw, bool):
        raise TypeError
    text = pa.scalar(str(raw), pa.string())
    if pa.types.is_integer(kind) and str(raw).strip().endswith(".0"):
        text = pa.scalar(str(raw).strip()[:-2], pa.string())
    return text.cast(kind).as_py()


def _boolean(raw: Any) -> bool:
    word = str(raw).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(word)
    return word in _TRUE


def _instant(text: str, kind: pa.DataType) -> Any:
    """Read ISO 8601; a time without a zone is taken to be in the column's own zone."""
    moment = datetime.fromisoformat(text.strip())
    if kind.tz is None:
        if moment.tzinfo is not None:
            raise ValueError("the column has no zone")
        return pa.scalar(moment, pa.timestamp(kind.unit)).as_py()
    if moment.tzinfo is None:
        local = pa.array([moment], pa.timestamp(kind.unit))
        return pc.assume_timezone(local, kind.tz, ambiguous="earliest", nonexistent="earliest")[0].as_py()
    return pa.scalar(moment, kind).as_py()
