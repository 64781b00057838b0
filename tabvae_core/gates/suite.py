"""The expectation suite of a table, from its schema and the spec. Imports Great Expectations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from great_expectations import ExpectationSuite
from great_expectations.expectations.core.expect_column_values_to_be_in_set import ExpectColumnValuesToBeInSet
from great_expectations.expectations.core.expect_column_values_to_be_unique import ExpectColumnValuesToBeUnique
from great_expectations.expectations.core.expect_column_values_to_match_regex import ExpectColumnValuesToMatchRegex
from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull
from great_expectations.expectations.core.expect_table_columns_to_match_ordered_list import (
    ExpectTableColumnsToMatchOrderedList,
)
from great_expectations.expectations.core.expect_table_row_count_to_equal import ExpectTableRowCountToEqual

from tabvae_core.evaluation.divergence import Histogram
from tabvae_core.gates import expectations as own
from tabvae_core.gates.checks import CategoryCheck, Desk, DistributionCheck, RuleCheck, TypeCheck, range_check
from tabvae_core.rules import Rule
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import Kind

__all__ = ["Demands", "is_unique", "suite_of"]

_LISTED_CATEGORIES = 1_000
"""Categories that a suite lists by value; longer lists are compared on Arrow and stay out of the pages."""

_EXACT_DISTINCT = 1_000_000
"""Up to here `ColumnSchema.distinct` is exact."""


@dataclass(frozen=True)
class Demands:
    """All that a table is held against.

    Args:
        schema: Columns, types, nullability, bounds.
        rules: Conditions on rows.
        categories: By column, the values that may occur.
        formats: By column, a regular expression that texts and whole numbers match from end to end.
        references: By column, what held-out rows look like.
        jsd_limits: By column of `references`, the largest Jensen-Shannon distance.
        rows: Rows of the whole table.

    """

    schema: TableSchema
    rules: tuple[Rule, ...] = ()
    categories: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, Histogram] = field(default_factory=dict)
    jsd_limits: Mapping[str, float] = field(default_factory=dict)
    rows: int | None = None


def is_unique(column: ColumnSchema, rows: int) -> bool:
    """Whether a column was a key in the source: every cell that is not null differs from all others."""
    there = round(rows * (1 - column.nulls))
    return column.kind is Kind.IDENTIFIER and column.distinct >= min(there, _EXACT_DISTINCT) > 0


def suite_of(name: str, demands: Demands, desk: Desk, *, count_rows: bool) -> ExpectationSuite:
    """Write the suite: the table first, then column by column, then the rules.

    Args:
        name: Name of the suite.
        demands: What to expect.
        desk: Where the checks behind our own expectations are laid down.
        count_rows: Whether the batch is the whole table, so that its rows can be counted.

    """
    suite = ExpectationSuite(name=name)
    arrow = demands.schema.arrow
    suite.add_expectation(ExpectTableColumnsToMatchOrderedList(column_list=list(arrow.names), meta={"gate": "columns"}))
    if count_rows and demands.rows is not None:
        suite.add_expectation(ExpectTableRowCountToEqual(value=demands.rows, meta={"gate": "rows"}))
    for arrow_field in arrow:
        for expectation in _of_column(demands.schema.column(arrow_field.name), arrow_field, demands, desk):
            suite.add_expectation(expectation)
    for rule in demands.rules:
        suite.add_expectation(
            own.ExpectRowsToSatisfyRule(
                check=desk.put(RuleCheck(rule)),
                description=f"every row satisfies: {rule.text.strip()}",
                meta={"gate": rule.text.strip(), "rule": True},
            )
        )
    return suite


def _of_column(column: ColumnSchema, arrow: pa.Field, demands: Demands, desk: Desk) -> Iterator[Any]:
    name, kind = column.name, arrow.type
    yield own.ExpectColumnArrowTypeToBe(
        column=name,
        check=desk.put(TypeCheck(kind)),
        description=f"has the Arrow type {kind}",
        meta={"gate": "type"},
    )
    if not (column.nullable and arrow.nullable):
        yield ExpectColumnValuesToNotBeNull(column=name, meta={"gate": "nulls"})
    if (bounds := range_check(column, kind)) is not None:
        yield own.ExpectColumnValuesToStayInRange(
            column=name,
            check=desk.put(bounds),
            description=f"lies between {_end(column.minimum)} and {_end(column.maximum)}",
            meta={"gate": "range"},
        )
    if name in demands.categories:
        yield _categories(name, demands.categories[name], kind, desk)
    if is_unique(column, demands.schema.rows):
        yield ExpectColumnValuesToBeUnique(column=name, meta={"gate": "unique"})
    if name in demands.formats and _is_text_or_integer(kind):
        pattern = f"^(?:{demands.formats[name]})$"
        yield ExpectColumnValuesToMatchRegex(column=name, regex=pattern, meta={"gate": "format"})
    if name in demands.references:
        limit = demands.jsd_limits.get(name, 1.0)
        yield own.ExpectColumnDistributionToMatchReference(
            column=name,
            check=desk.put(DistributionCheck(demands.references[name], limit)),
            description=f"is distributed like the held-out rows: Jensen-Shannon distance at most {limit:.3g}",
            meta={"gate": "distribution", "limit": limit},
        )


def _categories(name: str, known: tuple[Any, ...], kind: pa.DataType, desk: Desk) -> Any:
    if len(known) <= _LISTED_CATEGORIES and all(isinstance(value, str) for value in known):
        return ExpectColumnValuesToBeInSet(column=name, value_set=list(known), meta={"gate": "categories"})
    base = kind.value_type if pa.types.is_dictionary(kind) else kind
    return own.ExpectColumnCategoriesToBeKnown(
        column=name,
        check=desk.put(CategoryCheck(pa.array(known, base))),
        description=f"holds no other than the {len(known):,} learned values",
        meta={"gate": "categories"},
    )


def _is_text_or_integer(kind: pa.DataType) -> bool:
    base = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(base) or pa.types.is_string(base) or pa.types.is_large_string(base))


def _end(end: float | int | str | None) -> str:
    return "any" if end is None else str(end)
