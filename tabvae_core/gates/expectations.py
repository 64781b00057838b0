"""Expectations that Great Expectations does not bring: exact Arrow types, exact ranges, rules over rows, and
the Jensen-Shannon distance to a reference. Importing this module imports Great Expectations.

Each computes one figure a batch, on Arrow, and shows counts only: no cell reaches a result or a page.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation, ColumnAggregateExpectation
from great_expectations.expectations.metrics.column_aggregate_metric_provider import (
    ColumnAggregateMetricProvider,
    column_aggregate_value,
)
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider

from tabvae_core.gates.checks import Outcome, find_check

__all__ = [
    "ExpectColumnArrowTypeToBe",
    "ExpectColumnCategoriesToBeKnown",
    "ExpectColumnDistributionToMatchReference",
    "ExpectColumnValuesToStayInRange",
    "ExpectRowsToSatisfyRule",
    "arrow_column",
]


def arrow_column(column: pd.Series[Any]) -> pa.ChunkedArray:
    """The Arrow cells behind a pandas column of an `ArrowDtype`, without a copy."""
    cells = column.array.__arrow_array__()
    return cells if isinstance(cells, pa.ChunkedArray) else pa.chunked_array([cells])


class ColumnOutcome(ColumnAggregateMetricProvider):
    """The outcome of a check on one column."""

    metric_name = "column.tabvae_outcome"
    value_keys = ("check",)

    @column_aggregate_value(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series[Any], check: str, **_: Any) -> Outcome:
        return find_check(check).measure(arrow_column(column))


class TableOutcome(TableMetricProvider):
    """The outcome of a check on whole rows."""

    metric_name = "table.tabvae_outcome"
    value_keys = ("check",)

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any],
    ) -> Outcome:
        frame, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE)
        table = pa.table({name: arrow_column(frame[name]) for name in frame.columns})
        return find_check(metric_value_kwargs["check"]).measure(table)


def _answer(outcome: Outcome) -> dict[str, Any]:
    result = {"observed_value": outcome.observed, "details": {"value": outcome.value}}
    return {"success": outcome.passed, "result": result}


class _ColumnExpectation(ColumnAggregateExpectation):
    check: str

    metric_dependencies: ClassVar[tuple[str, ...]] = ("column.tabvae_outcome",)
    success_keys: ClassVar[tuple[str, ...]] = ("check",)
    args_keys: ClassVar[tuple[str, ...]] = ("column", "check")

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> dict[str, Any]:
        return _answer(metrics["column.tabvae_outcome"])


class ExpectColumnArrowTypeToBe(_ColumnExpectation):
    """Expect a column to have exactly one Arrow type."""


class ExpectColumnValuesToStayInRange(_ColumnExpectation):
    """Expect numbers and times to lie between two ends, compared without a float in between."""


class ExpectColumnCategoriesToBeKnown(_ColumnExpectation):
    """Expect values to be among the learned ones; for sets too large, or of types too rich, for JSON."""


class ExpectColumnDistributionToMatchReference(_ColumnExpectation):
    """Expect the Jensen-Shannon distance to held-out rows to stay within a limit."""


class ExpectRowsToSatisfyRule(BatchExpectation):
    """Expect every row to satisfy a rule of the spec."""

    check: str

    metric_dependencies: ClassVar[tuple[str, ...]] = ("table.tabvae_outcome",)
    success_keys: ClassVar[tuple[str, ...]] = ("check",)
    args_keys: ClassVar[tuple[str, ...]] = ("check",)

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> dict[str, Any]:
        return _answer(metrics["table.tabvae_outcome"])
