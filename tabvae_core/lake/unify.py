"""One Arrow schema for many files that were written at different times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.types as pt

from tabvae_core.errors import DataError, SchemaDrift

__all__ = ["common_type", "unify_schemas"]


def unify_schemas(files: Sequence[tuple[str, pa.Schema]], columns: Sequence[str] | None = None) -> pa.Schema:
    """Find the schema that the rows of all files fit into without loss.

    A column that is all null in one file takes its type from the others; integers, floats, decimals and
    timestamps of different widths take the wider one. Order and metadata come from the first file.

    Args:
        files: Name, for messages, and schema of each file; at least one.
        columns: Columns that will be read; the others may differ as they like. None: all.

    Raises:
        DataError: A file has two columns of one name.
        SchemaDrift: A column is missing from a file, or its types have no common one. Names file and column.

    """
    wanted = None if columns is None else set(columns)
    first_name, first = files[0]
    fields: dict[str, pa.Field] = {}
    origin: dict[str, str] = {}
    for name, schema in files:
        _check_unique(name, schema)
        own = {field.name: field for field in schema if wanted is None or field.name in wanted}
        if not fields:
            fields, origin = own, dict.fromkeys(own, name)
            continue
        _check_same_names(name, own, first_name, fields)
        for column, field in own.items():
            fields[column], origin[column] = _merge(name, field, origin[column], fields[column])
    return pa.schema(fields.values(), metadata=first.metadata)


def _check_unique(name: str, schema: pa.Schema) -> None:
    if twice := sorted(column for column, count in Counter(schema.names).items() if count > 1):
        raise DataError(
            f"{name} has more than one column named {', '.join(map(repr, twice))}",
            hint="rename the columns where the file is written; names must be unique",
        )


def _check_same_names(name: str, own: Mapping[str, pa.Field], first: str, known: Mapping[str, pa.Field]) -> None:
    for column in known:
        if column not in own:
            raise SchemaDrift(f"{name} lacks the column {column!r} that {first} has", hint=_DRIFT_HINT)
    for column in own:
        if column not in known:
            raise SchemaDrift(f"{name} has a column {column!r} that {first} lacks", hint=_DRIFT_HINT)


_DRIFT_HINT = "rewrite the files with one schema, or list the columns that all have in `source.columns`"


def _merge(name: str, field: pa.Field, known_name: str, known: pa.Field) -> tuple[pa.Field, str]:
    kind = common_type(known.type, field.type)
    if kind is None:
        raise SchemaDrift(
            f"column {field.name!r} is {field.type} in {name} and {known.type} in {known_name}",
            hint=_DRIFT_HINT,
        )
    merged = known.with_type(kind).with_nullable(known.nullable or field.nullable)
    return merged, (name if pt.is_null(known.type) else known_name)


def common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Find the narrowest type that holds the values of both without loss; None where there is none."""
    if a.equals(b) or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    if pt.is_dictionary(a) or pt.is_dictionary(b):
        return _common_dictionary(a, b)
    if _family(a) is None or _family(a) != _family(b):
        return None
    try:
        merged = pa.unify_schemas([pa.schema([("x", a)]), pa.schema([("x", b)])], promote_options="permissive")
    except pa.ArrowException:
        return None
    return merged.field("x").type


def _common_dictionary(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    plain = common_type(_plain(a), _plain(b))
    if plain is None or not (pt.is_dictionary(a) and pt.is_dictionary(b)) or a.ordered != b.ordered:
        return plain
    index = common_type(a.index_type, b.index_type)
    return pa.dictionary(index, plain, ordered=a.ordered) if index is not None else plain


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pt.is_dictionary(kind) else kind


def _family(kind: pa.DataType) -> object | None:
    """Group the types that widen into each other; None for a type that never does."""
    if pt.is_signed_integer(kind):
        return "signed"
    if pt.is_unsigned_integer(kind):
        return "unsigned"
    if pt.is_floating(kind):
        return "float"
    if pt.is_decimal(kind):
        return "decimal"
    if pt.is_string(kind) or pt.is_large_string(kind):
        return "text"
    if pt.is_binary(kind) or pt.is_large_binary(kind):
        return "bytes"
    if pt.is_timestamp(kind):
        return ("timestamp", kind.tz)
    if pt.is_duration(kind):
        return "duration"
    return "time" if pt.is_time(kind) else None
