"""What a spec fixes of the rows to draw, held against the table: given values, balanced classes, scenarios.

A model refuses as well what it does not know, when it draws; here that is known before a training of hours.
"""

from __future__ import annotations

from collections.abc import Mapping

from tabvae_core.balance import class_indices, class_rows
from tabvae_core.codecs.base import Codec
from tabvae_core.errors import SpecError
from tabvae_core.given import check_learnable, given_values
from tabvae_core.schema import TableSchema
from tabvae_core.spec import Kind, RefreshSpec

__all__ = ["check_classes", "check_values", "class_columns", "named_columns"]

_CLASSES = (Kind.CATEGORY, Kind.BOOLEAN)


def named_columns(spec: RefreshSpec) -> list[tuple[str, str]]:
    """Columns that a spec fixes something of, as (place in the spec, name)."""
    named = [("sample.given", name) for name in spec.sample.given]
    named += [("sample.balance", spec.sample.balance.column)] if spec.sample.balance else []
    for name, scenario in spec.scenarios.items():
        named += [(f"scenarios.{name}", column) for column in (*scenario.given, *scenario.margins)]
    return named


def check_values(spec: RefreshSpec, schema: TableSchema) -> None:
    """Compare fixed values and changed numbers with the types and kinds of their columns.

    Raises:
        SpecError: A value is not of its column's type, or a column that is no number is scaled or shifted.

    """
    given_values(spec.sample.given, schema)
    for name, scenario in spec.scenarios.items():
        given_values(scenario.given, schema, f"scenarios.{name}.given")
        for column, margin in scenario.margins.items():
            kind = schema.column(column).kind
            if not margin.shares and kind is not Kind.NUMBER:
                raise SpecError(
                    f"scenarios.{name}: column {column!r} is of kind {kind.value} and cannot be scaled or shifted",
                    hint="scale and shift are for numbers; shares are for classes",
                )


def class_columns(spec: RefreshSpec, schema: TableSchema) -> list[str]:
    """Columns of which a spec names classes, so that `check_classes` needs their codecs."""
    names = [name for name in spec.sample.given if schema.column(name).kind in _CLASSES]
    names += [spec.sample.balance.column] if spec.sample.balance else []
    for scenario in spec.scenarios.values():
        names += [name for name in scenario.given if schema.column(name).kind in _CLASSES]
        names += [name for name, margin in scenario.margins.items() if margin.shares]
    return names


def check_classes(spec: RefreshSpec, codecs: Mapping[str, Codec], schema: TableSchema, rows: int) -> None:
    """Refuse classes that are not learned.

    Args:
        spec: What is fixed.
        codecs: What is learned of the columns of `class_columns`.
        schema: The table.
        rows: Rows to draw.

    Raises:
        SpecError: Names the column.

    """
    check_learnable(spec.sample.given, codecs, schema)
    if spec.sample.balance is not None:
        class_rows(spec.sample.balance, codecs[spec.sample.balance.column], schema, rows)
    for name, scenario in spec.scenarios.items():
        check_learnable(scenario.given, codecs, schema, f"scenarios.{name}.given")
        for column, margin in scenario.margins.items():
            if margin.shares:
                class_indices(margin.shares, column, codecs[column], schema, f"scenarios.{name}.margins")
