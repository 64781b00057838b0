"""What expectations of our own compute, on Arrow and without Great Expectations.

An expectation must be written as JSON, a check holds rules, bounds and histograms; so an expectation carries
the key of a check that is on the `desk` while a validation runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.errors import TabvaeError
from tabvae_core.evaluation.divergence import Histogram
from tabvae_core.rules import Rule, values
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import Kind

__all__ = [
    "CategoryCheck",
    "Check",
    "Desk",
    "DistributionCheck",
    "Outcome",
    "RangeCheck",
    "RuleCheck",
    "TypeCheck",
    "find_check",
    "open_desk",
    "range_check",
]


@dataclass(frozen=True)
class Outcome:
    """What a check found in one batch.

    Args:
        passed: Whether the batch passes.
        value: Rows that break it, or the figure measured.
        observed: The same for a reader of the Data Docs.

    """

    passed: bool
    value: float
    observed: str


class Check(Protocol):
    """Something to hold a table or one of its columns against."""

    def measure(self, data: Any) -> Outcome:
        """Check a column (`pa.ChunkedArray`), or a table where the check is one of rows."""
        ...


@dataclass(frozen=True)
class TypeCheck:
    """The column has exactly this Arrow type."""

    expected: pa.DataType

    def measure(self, data: pa.ChunkedArray) -> Outcome:
        """Compare the types."""
        same = data.type == self.expected
        return Outcome(same, 0.0 if same else float(len(data)), str(data.type))


@dataclass(frozen=True)
class RangeCheck:
    """Cells lie between two ends, both inclusive, on the storage scale of the column's type; nulls pass."""

    kind: pa.DataType
    low: int | float | None
    high: int | float | None

    def measure(self, data: pa.ChunkedArray) -> Outcome:
        """Count the cells outside."""
        if data.type != self.kind:
            return _unsuitable(data)
        outside = sum(self._outside(values.plain(chunk)) for chunk in data.chunks)
        return _rows(outside, "outside the range")

    def _outside(self, cells: pa.Array) -> int:
        ends = ((">=", self.low), ("<=", self.high))
        tests = [values.compare_position(op, cells, _place(end, cells.type)) for op, end in ends if end is not None]
        return sum(int(pc.sum(pc.invert(test)).as_py() or 0) for test in tests)


@dataclass(frozen=True, eq=False)
class CategoryCheck:
    """Cells are among the learned values; nulls pass."""

    known: pa.Array

    def measure(self, data: pa.ChunkedArray) -> Outcome:
        """Count the cells of other values."""
        cells = data.cast(data.type.value_type) if pa.types.is_dictionary(data.type) else data
        try:
            known = self.known.cast(cells.type)
        except pa.ArrowException:
            return _unsuitable(data)
        strange = pc.and_(pc.invert(pc.is_in(cells, value_set=known)), cells.is_valid())
        return _rows(int(pc.sum(strange).as_py() or 0), "of unknown categories")


@dataclass(frozen=True, eq=False)
class DistributionCheck:
    """The column's Jensen-Shannon distance to a reference histogram is within a limit."""

    reference: Histogram
    limit: float

    def measure(self, data: pa.ChunkedArray) -> Outcome:
        """Measure the distance, base 2."""
        try:
            distance = self.reference.distance(self.reference.bins.counts(data))
        except pa.ArrowException:
            return _unsuitable(data)
        return Outcome(distance <= self.limit, distance, f"Jensen-Shannon distance {distance:.3g}")


@dataclass(frozen=True)
class RuleCheck:
    """Every row satisfies a rule; nulls leave it open and pass."""

    rule: Rule

    def measure(self, data: pa.Table) -> Outcome:
        """Count the rows that break the rule."""
        try:
            holds = self.rule.evaluate(data)
        except TabvaeError as error:
            return Outcome(False, float(data.num_rows), f"cannot be evaluated: {error.message}")
        return _rows(int(data.num_rows) - int(pc.sum(holds).as_py() or 0), "break the rule")


def range_check(column: ColumnSchema, kind: pa.DataType) -> RangeCheck | None:
    """Check that a number or a time stays within the bounds of its schema; None where the schema has none.

    Bounds are written as numbers and ISO texts, which may be shorter than what a cell holds, so ends between
    two steps of the type are moved outwards.
    """
    if column.kind not in (Kind.NUMBER, Kind.DATETIME):
        return None
    base = kind.value_type if pa.types.is_dictionary(kind) else kind
    low = _end(column.minimum, base, up=False)
    high = _end(column.maximum, base, up=True)
    return None if low is None and high is None else RangeCheck(kind, low, high)


_SLACK = 1e-9
"""Relative room at the ends of floats and decimals: a float of 17 digits stands for the end in the schema."""


def _end(end: float | int | str | None, kind: pa.DataType, *, up: bool) -> int | float | None:
    place = None if end is None else values.schema_position(end, kind)
    if place is None or isinstance(place, str | bool):
        return None
    outwards = 1 if up else -1
    if isinstance(place, float):
        return place + outwards * _SLACK * abs(place) if math.isfinite(place) else None
    if pa.types.is_decimal(kind):
        place += outwards * abs(place) * Fraction(_SLACK)
    return math.ceil(place) if up else math.floor(place)


def _place(end: int | float, kind: pa.DataType) -> values.Position:
    return float(end) if pa.types.is_floating(kind) else Fraction(end)


def _rows(broken: int, how: str) -> Outcome:
    return Outcome(not broken, float(broken), f"{broken:,} rows {how}" if broken else "all rows pass")


def _unsuitable(data: pa.ChunkedArray) -> Outcome:
    return Outcome(False, float(len(data)), f"cannot be compared, the type is {data.type}")


# The desk


class Desk:
    """The checks of one validation."""

    def __init__(self, number: int) -> None:
        self._number, self._checks = number, list[Check]()

    def put(self, check: Check) -> str:
        """Lay a check down; its key finds it."""
        self._checks.append(check)
        return f"{self._number}.{len(self._checks) - 1}"

    @property
    def checks(self) -> Sequence[Check]:
        """The checks, in the order of their keys."""
        return self._checks


_desks: dict[int, Desk] = {}
_numbers = itertools.count(1)


@contextmanager
def open_desk() -> Iterator[Desk]:
    """Lend a desk for the time of one validation; several may run side by side."""
    number = next(_numbers)
    _desks[number] = Desk(number)
    try:
        yield _desks[number]
    finally:
        del _desks[number]


def find_check(key: str) -> Check:
    """Find a check by its key."""
    desk, place = key.split(".")
    return _desks[int(desk)].checks[int(place)]
