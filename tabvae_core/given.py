"""What is given of the rows to draw: values fixed for every row, or a table whose nulls are to be filled.

Fixed values are read by the type of their column: `age=35` is an integer, `city=35` a string. Cells of a table are
cast to it, where that loses nothing. A NaN counts as null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs._nulls import is_null
from tabvae_core.codecs.ordinal import base_type, is_binary_like, is_string_like, plain, restore_type
from tabvae_core.errors import DataError, SpecError
from tabvae_core.schema import TableSchema
from tabvae_core.spec import Kind, PrivacySpec
from tabvae_core.tables import TableSource, as_source

if TYPE_CHECKING:
    from tabvae_core.codecs.base import Codec

__all__ = [
    "UNKNOWN_CLASS",
    "GivenColumn",
    "check_learnable",
    "column_codecs",
    "given_blocks",
    "given_cells",
    "given_column",
    "given_values",
    "split_pairs",
    "with_given",
]

UNKNOWN_CLASS = "check its spelling; categories of fewer rows than privacy.min_category_rows are not learned"
"""What to do about a class that is none."""

_TRUE, _FALSE = {"true", "t", "yes", "1"}, {"false", "f", "no", "0"}


@dataclass(frozen=True)
class GivenColumn:
    """Given cells of one column in n rows.

    Args:
        cells: The cells, of exactly the column's type.
        mask: True where a cell is given, shape (n,); a given cell may be null.
        strict: Whether a value that was never learned is an error; else it is kept and conditions nothing.

    """

    cells: pa.Array
    mask: npt.NDArray[np.bool_]
    strict: bool = True


def given_blocks(
    given: Mapping[str, Any] | pa.Table | TableSource, schema: TableSchema, rows: int, size: int
) -> Iterator[Mapping[str, Any] | pa.Table]:
    """Yield what is given of each block of `size` of the rows: fixed values again and again, or slices of a table.

    Raises:
        DataError: The table has no rows or no columns.
        SpecError: It has other columns than the learned table, or not as many rows as are drawn.

    """
    if isinstance(given, Mapping):
        yield from (given for _ in range(0, rows, size))
        return
    source = as_source(given)
    _check_table(source, schema, rows)
    waiting = source.schema.empty_table()
    for batch in source.batches():
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        while waiting.num_rows >= size:
            yield waiting.slice(0, size)
            waiting = waiting.slice(size)
    if waiting.num_rows:
        yield waiting


def _check_table(given: TableSource, schema: TableSchema, rows: int) -> None:
    if not given.schema.names:
        raise DataError("the given table has no columns", hint="give at least one column of the model")
    _check_known(given.schema.names, schema)
    if given.num_rows == 0:
        raise DataError("the given table has no rows", hint="one row is drawn for each of its rows")
    if given.num_rows != rows:
        raise SpecError(
            f"the given table has {given.num_rows:,} rows, however {rows:,} are asked for",
            hint="leave the number of rows out: one is drawn for each row of the given table",
        )


def _check_known(names: Sequence[str], schema: TableSchema, where: str = "given") -> None:
    for name in names:
        if name not in schema.names:
            raise SpecError(f"{where}: there is no column {name!r}", hint=f"columns: {', '.join(schema.names)}")


def given_cells(given: Mapping[str, Any] | pa.Table, schema: TableSchema, rows: int) -> dict[str, GivenColumn]:
    """Turn what is given into cells.

    Args:
        given: A value for each of some columns, the same in every row; or a table of n rows, whose nulls are to
            be filled.
        schema: The learned table.
        rows: n.

    Raises:
        DataError: Cells of the table cannot become what its columns hold.
        SpecError: There is no such column, or the table has not n rows.

    """
    arrow = schema.arrow
    if isinstance(given, pa.Table):
        _check_table(as_source(given), schema, rows)
        return {name: given_column(given.column(name), arrow.field(name)) for name in given.column_names}
    _check_known(list(given), schema)
    every = np.ones(rows, dtype=np.bool_)
    return {name: GivenColumn(pa.array([given[name]] * rows, type=arrow.field(name).type), every) for name in given}


def given_column(column: pa.ChunkedArray, field: pa.Field, where: str = "given") -> GivenColumn:
    """Cells of a table, cast to the type of a learned column.

    Raises:
        DataError: They do not fit the type; `where` they stand begins the message.

    """
    cells = plain(column)
    there = ~is_null(cells)
    if there.sum() + cells.null_count < len(cells):
        cells = pc.if_else(pa.array(there), cells, pa.scalar(None, cells.type))
    try:
        cast = cells if column.type == field.type else cells.cast(base_type(field.type))
        fit = _says_the_same(cells, cast)
        result = restore_type(cast, field.type)
    except (pa.ArrowException, DataError):
        fit = False
    if not fit:
        raise DataError(
            f"{where}: column {field.name!r} has type {column.type}, and cells that do not fit {field.type}",
            hint=f"write the column with type {field.type}",
        )
    return GivenColumn(result, there, strict=False)


def _says_the_same(before: pa.Array, after: pa.Array) -> bool:
    """Whether a cast lost nothing: those that Arrow calls safe cut times of day, zones, and decimals of floats."""
    old, new = before.type, after.type
    if old == new or pa.types.is_null(old) or any(is_string_like(kind) or is_binary_like(kind) for kind in (old, new)):
        return True
    if pa.types.is_timestamp(old) and pa.types.is_timestamp(new) and (old.tz is None) != (new.tz is None):
        return bool(before.null_count == len(before))
    if pa.types.is_floating(old) and pa.types.is_floating(new):  # rounding is no loss, becoming infinite is
        finite = [np.isfinite(cells.drop_null().to_numpy(zero_copy_only=False)) for cells in (before, after)]
        return bool(np.array_equal(*finite))
    return bool(after.cast(old, safe=False).equals(before))


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
    """Split `column=value` arguments of `--given`.

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


def given_values(given: Mapping[str, Any], schema: TableSchema, where: str = "given") -> dict[str, Any]:
    """Turn given values, texts or YAML scalars, into Python values of the columns' Arrow types.

    An empty text and the word `null` mean null, except in a column of strings, where only YAML's own null does.
    Errors begin with `where`.

    Raises:
        SpecError: A column does not exist, cannot be given, or the value is not of its type.

    """
    return {name: _value(name, raw, schema, where) for name, raw in given.items()}


def check_learnable(
    given: Mapping[str, Any], codecs: Mapping[str, Codec], schema: TableSchema, where: str = "given"
) -> None:
    """Refuse given categories that a model will not know.

    A model refuses them as well, when it draws; here that is known before a training of hours.

    Args:
        given: Given values, as a spec holds them.
        codecs: What will be learned of their columns, or was.
        schema: The table.
        where: Place in the spec, for errors.

    Raises:
        SpecError: Names the column.

    """
    for name, value in given_values(given, schema, where).items():
        if schema.column(name).kind not in (Kind.CATEGORY, Kind.BOOLEAN):
            continue
        if not codecs[name].knows(pa.array([value], schema.arrow.field(name).type)):
            raise SpecError(
                f"{where}: the value for column {name!r} is none of its categories, or too rare to be learned",
                hint=UNKNOWN_CLASS,
            )


def column_codecs(
    names: Iterable[str], rows: TableSource, schema: TableSchema, privacy: PrivacySpec
) -> dict[str, Codec]:
    """Fit the codecs of some columns alone, in one pass: what a model of these rows will know of them."""
    from tabvae_core.codecs.table import fitter_for

    fields = [schema.arrow.field(name) for name in dict.fromkeys(names)]
    fitters = {field.name: fitter_for(schema.column(field.name), field.type, privacy) for field in fields}
    first = 0
    for batch in rows.batches(list(fitters)) if fitters else ():
        for fitter, cells in zip(fitters.values(), batch.columns, strict=True):
            fitter.observe(cells, first)
        first += batch.num_rows
    return {name: fitter.finish() for name, fitter in fitters.items()}


def _value(name: str, raw: Any, schema: TableSchema, where: str) -> Any:
    _check_known([name], schema, where)
    column, kind = schema.column(name), schema.arrow.field(name).type
    if column.kind in (Kind.TEXT, Kind.NESTED, Kind.IDENTIFIER):
        raise SpecError(
            f"{where}: column {name!r} is of kind {column.kind.value} and cannot be given",
            hint="give a number, category, boolean or date column",
        )
    stringlike = pa.types.is_string(_values_of(kind)) or pa.types.is_large_string(_values_of(kind))
    if raw is None or (isinstance(raw, str) and not stringlike and raw.strip().lower() in {"", "null"}):
        if not column.nullable:
            raise SpecError(f"{where}: column {name!r} has no nulls", hint="give a value")
        return None
    try:
        return _parse(raw, _values_of(kind))
    except (ValueError, TypeError, ArithmeticError, pa.ArrowException):
        raise SpecError(
            f"{where}: the value for column {name!r} is not of its type, {kind}",
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
