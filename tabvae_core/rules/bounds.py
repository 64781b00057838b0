"""What rules say of single columns, so that samplers draw no value outside in the first place.

A conjunction of rules splits into parts. A part that compares one column with constants bounds that column;
whatever is left (two columns, `or`, arithmetic) is for re-sampling. Bounds never bar nulls, except those of
`notnull(column)`: a null leaves a comparison open, and an open rule holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.errors import ImpossibleRule, SpecError
from tabvae_core.rules import syntax, values
from tabvae_core.rules.rule import Rule, as_rules, spec_error
from tabvae_core.rules.syntax import RuleFault
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ColumnOverride

__all__ = ["BoundValue", "Bounds", "bounds_of", "check_rules", "residual"]

BoundValue = int | float | Decimal | str | bool
"""A number, text, truth value, ISO 8601 for dates and times, seconds for durations."""


@dataclass(frozen=True)
class Bounds:
    """The cells that a column may hold, nulls apart.

    Args:
        minimum: Smallest value; None: no end.
        minimum_open: Whether the smallest value itself is left out.
        maximum: Largest value; None: no end.
        maximum_open: Whether the largest value itself is left out.
        allowed: The only values allowed, each within the ends and not excluded; None: no list.
        excluded: Values left out; None: none.
        nullable: Whether nulls are allowed; False where a rule says `notnull(column)`.

    """

    minimum: BoundValue | None = None
    minimum_open: bool = False
    maximum: BoundValue | None = None
    maximum_open: bool = False
    allowed: tuple[BoundValue, ...] | None = None
    excluded: tuple[BoundValue, ...] | None = None
    nullable: bool = True

    def limits(self, kind: pa.DataType) -> tuple[int | float | None, int | float | None]:
        """Smallest and largest cell allowed, both inclusive, on the scale of the type's own storage.

        Integers as they are; dates, times and durations as Arrow stores them (days, microseconds since 1970,
        ...); decimals as the unscaled integer (1.25 of scale 2 is 125); floats as floats, an open end being
        the next one. None where there is no end, and for types without order.
        """
        ends = _Ends.of(self, kind)
        return _inclusive(ends.low, ends.low_open, kind, up=True), _inclusive(ends.high, ends.high_open, kind, up=False)

    def contains(self, array: pa.Array) -> pa.BooleanArray:
        """Test every cell; nulls count as inside when they are allowed. No null in the result."""
        cells = values.plain(array)
        tests: list[Any] = []
        if self.minimum is not None:
            tests.append(values.compare_constant(">" if self.minimum_open else ">=", cells, _value(self.minimum)))
        if self.maximum is not None:
            tests.append(values.compare_constant("<" if self.maximum_open else "<=", cells, _value(self.maximum)))
        if self.allowed is not None:
            tests.append(values.is_member(cells, tuple(map(_value, self.allowed)), negated=False))
        if self.excluded:
            tests.append(values.is_member(cells, tuple(map(_value, self.excluded)), negated=True))
        inside = pa.repeat(pa.scalar(True), len(array))
        for test in tests:
            inside = pc.and_kleene(inside, test)
        inside = pc.fill_null(inside, True)
        return inside if self.nullable else pc.and_(inside, array.is_valid())


def _value(value: BoundValue) -> syntax.Value:
    return Decimal(repr(value)) if isinstance(value, float) else value


def bounds_of(
    rules: Iterable[Rule | str], schema: TableSchema, overrides: Mapping[str, ColumnOverride] | None = None
) -> dict[str, Bounds]:
    """Collect what rules and overrides say of single columns.

    Args:
        rules: All of them hold together.
        schema: Types of the columns.
        overrides: The spec's `columns`: their minimum and maximum count as further rules.

    Returns:
        Bounds of the columns that have some.

    Raises:
        ImpossibleRule: The parts of one column exclude each other; names the rules.
        SpecError: A rule does not fit the column's type.

    """
    types = {field.name: field.type for field in schema.arrow}
    found: dict[str, _Ends] = {}
    for rule in as_rules(rules):
        for part in _parts(rule.tree):
            limit = _limit(part)
            if limit is not None and limit.column in types:
                ends = found.setdefault(limit.column, _Ends(types[limit.column]))
                _narrow(ends, limit, rule.text)
    for name, override in (overrides or {}).items():
        for op, key, value in ((">=", "minimum", override.minimum), ("<=", "maximum", override.maximum)):
            if value is not None and name in types:
                limit = _Limit(name, op, (_override_value(value, types[name]),), None)
                _narrow(found.setdefault(name, _Ends(types[name])), limit, f"columns.{name}.{key} = {value}")
    result: dict[str, Bounds] = {}
    for name, ends in found.items():
        _check_possible(name, ends)
        result[name] = ends.bounds()
    return result


def residual(rules: Iterable[Rule | str]) -> tuple[Rule, ...]:
    """Keep the rules that `bounds_of` does not say whole: sampling has to draw again where they fail."""
    return tuple(rule for rule in as_rules(rules) if any(_limit(part) is None for part in _parts(rule.tree)))


def check_rules(rules: Iterable[Rule | str], schema: TableSchema) -> None:
    """Find what is wrong with rules before anything runs.

    Raises:
        SpecError: A rule cannot be read, names an unknown or dropped column, or does not fit a column's type.
        ImpossibleRule: Rules exclude each other, or the column's own range.

    """
    empty = pa.RecordBatch.from_arrays(
        [pa.nulls(0, field.type) for field in schema.arrow], names=[field.name for field in schema.arrow]
    )
    dropped = {column.name for column in schema.columns} - set(schema.names)
    parsed = as_rules(rules)
    for rule in parsed:
        if gone := sorted(rule.columns & dropped):
            raise SpecError(
                f"rule {rule.text.strip()!r}: column {gone[0]!r} is left out of the synthetic table",
                hint="keep the column (`unlearnable` in the spec), or leave the rule out",
            )
        rule.evaluate(empty)
    bounds_of(parsed, schema)
    for rule in parsed:
        _check_range(rule, schema)


# Parts of a conjunction


@dataclass(frozen=True)
class _Limit:
    """One part that bounds one column: `op` is a comparison, "in", "not in" or "notnull"."""

    column: str
    op: str
    values: tuple[syntax.Value, ...]
    at: int | None


def _parts(node: syntax.Node) -> Iterator[syntax.Node]:
    """Split a condition where all parts must hold."""
    match node:
        case syntax.And(parts):
            for part in parts:
                yield from _parts(part)
        case syntax.Not(inner) if (turned := _negated(inner)) is not None:
            yield from _parts(turned)
        case _:
            yield node


_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


def _negated(node: syntax.Node) -> syntax.Node | None:
    """Push a `not` inwards."""
    match node:
        case syntax.Compare(op, left, right, at):
            return syntax.Compare(_OPPOSITE[op], left, right, at)
        case syntax.Member(item, members, negated, at):
            return syntax.Member(item, members, not negated, at)
        case syntax.IsNull(item, negated, at):
            return syntax.IsNull(item, not negated, at)
        case syntax.Or(parts):
            return syntax.And(tuple(_negated(part) or syntax.Not(part) for part in parts))
        case syntax.Not(inner):
            return inner
        case syntax.Column(_, at):
            return syntax.Compare("==", node, syntax.Constant(False, at), at)
    return None


def _limit(node: syntax.Node) -> _Limit | None:
    match node:
        case syntax.Compare(op, syntax.Column(name), syntax.Constant(value), at):
            return _Limit(name, op, (value,), at)
        case syntax.Compare(op, syntax.Constant(value), syntax.Column(name), at):
            return _Limit(name, values.FLIPPED[op], (value,), at)
        case syntax.Member(syntax.Column(name), members, negated, at):
            return _Limit(name, "not in" if negated else "in", members, at)
        case syntax.IsNull(syntax.Column(name), True, at):
            return _Limit(name, "notnull", (), at)
        case syntax.Column(name, at):
            return _Limit(name, "==", (True,), at)
    return None


# Merging


@dataclass
class _Ends:
    """The bounds of one column while they are merged, on its own scale, with the rules they come from."""

    kind: pa.DataType
    low: values.Position | None = None
    low_open: bool = False
    high: values.Position | None = None
    high_open: bool = False
    allowed: list[values.Position] | None = None
    excluded: list[values.Position] = field(default_factory=list)
    nullable: bool = True
    sources: dict[str, str] = field(default_factory=dict)
    """The rule behind "low", "high", "allowed" and "excluded"."""

    @classmethod
    def of(cls, bounds: Bounds, kind: pa.DataType) -> _Ends:
        ends = cls(kind, low_open=bounds.minimum_open, high_open=bounds.maximum_open)
        if bounds.minimum is not None:
            ends.low = values.position(_value(bounds.minimum), kind)
        if bounds.maximum is not None:
            ends.high = values.position(_value(bounds.maximum), kind)
        return ends

    def holds(self, place: values.Position) -> bool:
        """Whether a value lies within the ends and is not excluded."""
        at = cast("float", place)  # positions of one column compare with each other
        if self.low is not None and (at < cast("float", self.low) or (self.low_open and at == self.low)):
            return False
        if self.high is not None and (at > cast("float", self.high) or (self.high_open and at == self.high)):
            return False
        return place not in self.excluded

    def bounds(self) -> Bounds:
        allowed = None if self.allowed is None else [place for place in self.allowed if self.holds(place)]
        return Bounds(
            minimum=self._written(self.low),
            minimum_open=self.low_open,
            maximum=self._written(self.high),
            maximum_open=self.high_open,
            allowed=None if allowed is None else tuple(values.value_at(place, self.kind) for place in allowed),
            excluded=tuple(values.value_at(place, self.kind) for place in self.excluded) or None,
            nullable=self.nullable,
        )

    def _written(self, place: values.Position | None) -> BoundValue | None:
        return None if place is None else values.value_at(place, self.kind)


def _narrow(ends: _Ends, limit: _Limit, source: str) -> None:
    if limit.op == "notnull":
        ends.nullable = False
        return
    try:
        places = [values.position(value, ends.kind, limit.at) for value in limit.values]
    except RuleFault as fault:
        if values.family(ends.kind) is values.Family.NULL:
            return
        raise spec_error(source, fault) from None
    match limit.op:
        case "==" | "in":
            ends.sources.setdefault("allowed", source)
            fits = [place for place in dict.fromkeys(places) if _is_storable(place, ends.kind)]
            if ends.allowed is not None:
                both = [place for place in ends.allowed if place in fits]
                if ends.allowed and not both and ends.sources["allowed"] != source:
                    ends.sources["excluded"] = source
                fits = both
            ends.allowed = fits
        case "!=" | "not in":
            ends.sources["excluded"] = source
            ends.excluded += [p for p in places if _is_storable(p, ends.kind) and p not in ends.excluded]
        case ">" | ">=":
            _raise_low(ends, *_whole_step(places[0], limit.op == ">", up=True), source)
        case "<" | "<=":
            _drop_high(ends, *_whole_step(places[0], limit.op == "<", up=False), source)


def _whole_step(place: values.Position, is_open: bool, *, up: bool) -> tuple[values.Position, bool]:
    """Move an end between two steps to the next step that a cell can hold: x > 0.5 on integers is x >= 1."""
    if isinstance(place, Fraction) and place.denominator != 1:
        return Fraction(math.ceil(place) if up else math.floor(place)), False
    return place, is_open


def _is_storable(place: values.Position, kind: pa.DataType) -> bool:
    ends = values.step_range(kind)
    return not isinstance(place, Fraction) or (place.denominator == 1 and (ends is None or ends[0] <= place <= ends[1]))


def _raise_low(ends: _Ends, place: values.Position, is_open: bool, source: str) -> None:
    if ends.low is None or (cast("float", place), is_open) > (cast("float", ends.low), ends.low_open):
        ends.low, ends.low_open, ends.sources["low"] = place, is_open, source


def _drop_high(ends: _Ends, place: values.Position, is_open: bool, source: str) -> None:
    if ends.high is None or (cast("float", place), not is_open) < (
        cast("float", ends.high),
        not ends.high_open,
    ):
        ends.high, ends.high_open, ends.sources["high"] = place, is_open, source


def _inclusive(place: values.Position | None, is_open: bool, kind: pa.DataType, *, up: bool) -> int | float | None:
    if isinstance(place, Fraction):
        step = math.ceil(place) if up else math.floor(place)
        return step + (1 if up else -1) if is_open and place == step else step
    if place is None or isinstance(place, str | bool):
        return None
    if not is_open:
        return place
    width = np.float64 if pa.types.is_float64(kind) else np.float32 if pa.types.is_float32(kind) else np.float16
    return float(np.nextafter(width(place), width(math.inf if up else -math.inf)))


def _check_possible(name: str, ends: _Ends) -> None:
    """Refuse bounds that leave no value."""
    low = _inclusive(ends.low, ends.low_open, ends.kind, up=True)
    high = _inclusive(ends.high, ends.high_open, ends.kind, up=False)
    if low is not None and high is not None and low > high:
        raise _excluding(name, ends.sources["low"], ends.sources["high"])
    if isinstance(ends.low, str) and isinstance(ends.high, str):
        touching = ends.low == ends.high and (ends.low_open or ends.high_open)
        if ends.low > ends.high or touching:
            raise _excluding(name, ends.sources["low"], ends.sources["high"])
    span = values.step_range(ends.kind)
    for end, key in ((low, "low"), (high, "high")):
        beyond = span is not None and end is not None and (end > span[1] if key == "low" else end < span[0])
        if beyond:
            raise _beyond(name, ends.sources[key], f"the type {ends.kind} holds no such value")
    if ends.allowed is not None and not any(map(ends.holds, ends.allowed)):
        others = [ends.sources[key] for key in ("low", "high", "excluded") if key in ends.sources]
        if not others:
            raise _beyond(name, ends.sources["allowed"], f"the type {ends.kind} holds no such value")
        raise _excluding(name, ends.sources["allowed"], *others)


def _excluding(name: str, *sources: str) -> ImpossibleRule:
    different = list(dict.fromkeys(source.strip() for source in sources))
    quoted = " and ".join(repr(source) for source in different)
    what = f"rule {quoted} excludes itself" if len(different) == 1 else f"rules {quoted} exclude each other"
    return ImpossibleRule(
        f"{what} on column {name!r}: no value satisfies them",
        rule="; ".join(different),
        hint="change or remove one of them",
    )


def _beyond(name: str, source: str, why: str) -> ImpossibleRule:
    return ImpossibleRule(
        f"rule {source.strip()!r} leaves no value of column {name!r}: {why}",
        rule=source.strip(),
        hint="check the values of the rule, their unit and their type",
    )


def _override_value(value: float | str, kind: pa.DataType) -> syntax.Value:
    """A bound as rules write it."""
    if isinstance(value, str):
        return value
    if values.family(kind) is values.Family.DURATION:
        return cast("syntax.Value", values.value_at(Fraction(value), kind))
    return int(value) if float(value).is_integer() else Decimal(repr(value))


def _check_range(rule: Rule, schema: TableSchema) -> None:
    """Refuse a rule whose bounds lie wholly outside what the column was seen to hold."""
    for name, bounds in bounds_of([rule], schema).items():
        column, kind = schema.column(name), schema.arrow.field(name).type
        seen = [None if end is None else _seen(end, kind) for end in (column.minimum, column.maximum)]
        low, high = bounds.limits(kind)
        above = low is not None and seen[1] is not None and low > seen[1]
        below = high is not None and seen[0] is not None and high < seen[0]
        if above or below:
            side = "above" if above else "below"
            raise _beyond(name, rule.text, f"all it allows lies {side} the range that the source holds")


def _seen(end: float | int | str, kind: pa.DataType) -> float | Fraction | None:
    """A bound of the schema on the column's own scale; None where it has no order."""
    place = values.schema_position(end, kind)
    return None if isinstance(place, str | bool) else place
