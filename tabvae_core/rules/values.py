"""What the operators of a rule mean for each Arrow type.

Constants are compared exactly. Integers, decimals, dates and times are whole steps of some size (1, 0.01, a
microsecond), so a constant becomes an exact fraction of steps, and `x > 0.5` on integers becomes `x >= 1`:
nothing passes through a float. Float columns compare with the nearest value that the column can hold.
Every result is a boolean array with SQL's three values: a null operand makes a null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Context, Decimal
from enum import StrEnum
from fractions import Fraction
from functools import reduce
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.rules.syntax import RuleFault, Value

__all__ = [
    "FLIPPED",
    "Family",
    "Position",
    "arithmetic",
    "compare_arrays",
    "compare_constant",
    "compare_position",
    "family",
    "function",
    "is_member",
    "plain",
    "position",
    "schema_position",
    "step_range",
    "value_at",
]

Position = Fraction | float | str | bool
"""A constant on a column's own scale: steps for integers, decimals and times, else the value itself."""

FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}

_KERNELS: dict[str, Callable[[Any, Any], Any]] = {
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "==": pc.equal,
    "!=": pc.not_equal,
}
_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DAY = 86_400 * 10**9
_WIDE = Context(prec=200)


class Family(StrEnum):
    """Types that compare with each other."""

    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    INSTANT = "date or timestamp"
    CLOCK = "time of day"
    DURATION = "duration"
    NULL = "null"
    OTHER = "binary or nested value"


def family(kind: pa.DataType) -> Family:
    """Sort an Arrow type into its family; dictionaries count as their values."""
    if pa.types.is_dictionary(kind):
        return family(kind.value_type)
    for test, found in _FAMILIES:
        if test(kind):
            return found
    return Family.OTHER


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


_FAMILIES: tuple[tuple[Callable[[pa.DataType], bool], Family], ...] = (
    (pa.types.is_boolean, Family.BOOLEAN),
    (pa.types.is_integer, Family.NUMBER),
    (pa.types.is_floating, Family.NUMBER),
    (pa.types.is_decimal, Family.NUMBER),
    (_is_text, Family.TEXT),
    (pa.types.is_date, Family.INSTANT),
    (pa.types.is_timestamp, Family.INSTANT),
    (pa.types.is_time, Family.CLOCK),
    (pa.types.is_duration, Family.DURATION),
    (pa.types.is_null, Family.NULL),
)


def plain(array: pa.Array) -> pa.Array:
    """Decode dictionaries and bring the widths of one family to the ones that Arrow's kernels know."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_text(array.type):
        return array.cast(pa.large_string())
    if pa.types.is_decimal(array.type) and array.type.bit_width < 128:
        return array.cast(pa.decimal128(array.type.precision, array.type.scale))
    return array


# Constants on a column's own scale


def position(value: Value, kind: pa.DataType, at: int | None = None) -> Position:
    """Put a constant on a column's scale.

    Raises:
        RuleFault: The constant is of another family, or is no date where one is needed.

    """
    match family(kind):
        case Family.NUMBER if _is_number(value):
            return _number_position(Decimal(value), kind)  # type: ignore[arg-type]
        case Family.TEXT if isinstance(value, str):
            return value
        case Family.BOOLEAN if isinstance(value, bool):
            return value
        case Family.INSTANT if isinstance(value, str):
            return Fraction(_instant(value, kind, at)) / _step_ns(kind)
        case Family.CLOCK if isinstance(value, str):
            return Fraction(_clock(value, at)) / _step_ns(kind)
        case Family.DURATION if _is_number(value):
            return Fraction(Decimal(value)) * 10**9 / _step_ns(kind)  # type: ignore[arg-type]
    raise RuleFault(f"compares a {family(kind)} column with {_describe(value)}", at, _remedy(family(kind)))


def schema_position(value: float | int | str, kind: pa.DataType) -> Position | None:
    """Put a bound on a column's scale, written as schemas and overrides do: durations count their own unit.

    Returns:
        None where the bound is no value of the type.

    """
    group = family(kind)
    if group is Family.DURATION:
        return None if isinstance(value, str) else Fraction(value)
    number: Value = value if isinstance(value, str | int) else Decimal(repr(value))
    try:
        return position(number, kind)
    except (RuleFault, ArithmeticError):
        return None


def value_at(place: Position, kind: pa.DataType) -> int | float | Decimal | str | bool:
    """Write a position as a plain value: a number, text, truth value, or ISO 8601 for dates and times.

    Times are written to the step at or below the position, durations as seconds.
    """
    if not isinstance(place, Fraction):
        return place
    match family(kind):
        case Family.INSTANT:
            return _write_instant(math.floor(place) * _step_ns(kind), kind)
        case Family.CLOCK:
            seconds, rest = divmod(math.floor(place) * _step_ns(kind), 10**9)
            clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            return clock + (f".{rest:09}".rstrip("0") if rest else "")
        case Family.DURATION:
            ns = place * _step_ns(kind)
            return _WIDE.divide(Decimal(ns.numerator), Decimal(ns.denominator * 10**9))
        case _ if pa.types.is_decimal(kind):
            return _decimal(place, kind)
    return int(place) if place.denominator == 1 else float(place)


def step_range(kind: pa.DataType) -> tuple[int, int] | None:
    """Smallest and largest step that a stepped type holds; None for types without steps."""
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**kind.bit_width - 1
    if pa.types.is_integer(kind):
        return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1
    if pa.types.is_decimal(kind):
        return -(10**kind.precision) + 1, 10**kind.precision - 1
    if family(kind) in (Family.INSTANT, Family.CLOCK, Family.DURATION):
        return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _number_position(value: Decimal, kind: pa.DataType) -> Position:
    if pa.types.is_decimal(kind):
        return Fraction(value) * Fraction(10 ** abs(kind.scale)) ** (1 if kind.scale >= 0 else -1)
    if pa.types.is_integer(kind):
        return Fraction(value)
    if pa.types.is_float64(kind):
        return float(value)
    with np.errstate(over="ignore"):
        return float((np.float32 if pa.types.is_float32(kind) else np.float16)(float(value)))


def _describe(value: Value) -> str:
    if isinstance(value, bool):
        return "a truth value"
    return "text" if isinstance(value, str) else "a number"


def _remedy(kind: Family) -> str:
    return {
        Family.NUMBER: "write numbers without quotes",
        Family.TEXT: "write texts in quotes",
        Family.BOOLEAN: "write true or false",
        Family.INSTANT: "write dates in quotes, as in '2024-01-31' or '2024-01-31T12:00:00'",
        Family.CLOCK: "write times in quotes, as in '08:30:00'",
        Family.DURATION: "write durations as seconds",
    }.get(kind, "only isnull() and notnull() apply to it")


def _step_ns(kind: pa.DataType) -> int:
    if pa.types.is_date32(kind):
        return _DAY
    return _NS["ms"] if pa.types.is_date64(kind) else _NS[kind.unit]


def _instant(text: str, kind: pa.DataType, at: int | None) -> int:
    """Nanoseconds since 1970 of an ISO date and time, read in the column's zone where it has no offset."""
    try:
        whole, fraction = _split_fraction(text)
        moment = datetime.fromisoformat(whole)
    except ValueError:
        raise RuleFault(f"compares a date with {text!r}, which is no ISO date", at, _remedy(Family.INSTANT)) from None
    zone = getattr(kind, "tz", None)
    if moment.tzinfo is not None and zone is None:
        raise RuleFault(f"has an offset in {text!r}, but the column has no time zone", at, "leave the offset out")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=_zone(zone))
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + fraction


def _clock(text: str, at: int | None) -> int:
    try:
        whole, fraction = _split_fraction(text)
        moment = time.fromisoformat(whole)
        if moment.tzinfo is not None:
            raise ValueError(text)
    except ValueError:
        raise RuleFault(f"compares a time with {text!r}, which is no time", at, _remedy(Family.CLOCK)) from None
    return (moment.hour * 3600 + moment.minute * 60 + moment.second) * 10**9 + fraction


def _split_fraction(text: str) -> tuple[str, int]:
    """Take the fraction out of an ISO time, in nanoseconds: Python itself stops at microseconds."""
    found = re.search(r"(?<=\d\d:\d\d:\d\d)[.,](\d{1,9})(?!\d)", text)
    if not found:
        return text.strip(), 0
    return (text[: found.start()] + text[found.end() :]).strip(), int(found[1].ljust(9, "0"))


def _zone(name: str | None) -> Any:
    if name is None or name.upper() in ("UTC", "Z"):
        return UTC
    if offset := re.fullmatch(r"([+-])(\d\d):?(\d\d)", name):
        minutes = int(offset[2]) * 60 + int(offset[3])
        return timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise RuleFault(f"needs the time zone {name!r}, which this machine does not know", None) from None


def _write_instant(ns: int, kind: pa.DataType) -> str:
    seconds, rest = divmod(ns, 10**9)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    if pa.types.is_date(kind):
        return moment.date().isoformat()
    zone = getattr(kind, "tz", None)
    moment = moment.replace(tzinfo=None) if zone is None else moment.astimezone(_zone(zone))
    text = moment.isoformat()
    return text if not rest else text[:19] + f".{rest:09}".rstrip("0") + text[19:]


def _decimal(steps: Fraction, kind: pa.DataType) -> Decimal:
    return _WIDE.divide(Decimal(steps.numerator), Decimal(steps.denominator)).scaleb(-kind.scale, _WIDE)


# Comparisons


def compare_constant(op: str, array: pa.Array, value: Value, at: int | None = None) -> pa.Array:
    """Compare every cell with a constant."""
    kind = array.type
    if family(kind) is Family.NULL:
        return pa.nulls(len(array), pa.bool_())
    if family(kind) is Family.BOOLEAN and op not in ("==", "!="):
        raise RuleFault("orders truth values", at, "compare with == or !=")
    return compare_position(op, array, position(value, kind, at))


def compare_position(op: str, array: pa.Array, place: Position) -> pa.Array:
    """Compare every cell with a constant on the column's own scale."""
    kind = array.type
    if isinstance(place, Fraction):
        return _compare_steps(op, array, place)
    if pa.types.is_float16(kind):
        array, kind = array.cast(pa.float32()), pa.float32()
    return _KERNELS[op](array, pa.scalar(place, kind))


def _compare_steps(op: str, array: pa.Array, place: Fraction) -> pa.Array:
    low, high = step_range(array.type) or (0, 0)
    if place.denominator != 1:
        if op in ("==", "!="):
            return _everywhere(array, op == "!=")
        op, place = ("<=", Fraction(math.floor(place))) if op in ("<", "<=") else (">=", Fraction(math.ceil(place)))
    step = int(place)
    if not low <= step <= high:
        above = step > high
        return _everywhere(array, op == "!=" or (op in ("<", "<=") and above) or (op in (">", ">=") and not above))
    return _KERNELS[op](_storage(array), _step_scalar(step, array.type))


def _everywhere(array: pa.Array, truth: bool) -> pa.Array:
    return pc.if_else(array.is_valid(), pa.scalar(truth), pa.scalar(None, pa.bool_()))


def _storage(array: pa.Array) -> pa.Array:
    kind = array.type
    if family(kind) not in (Family.INSTANT, Family.CLOCK, Family.DURATION):
        return array
    return array.view(pa.int32() if kind.bit_width == 32 else pa.int64())


def _step_scalar(step: int, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_decimal(kind):
        return pa.scalar(_decimal(Fraction(step), kind), kind)
    if family(kind) is Family.NUMBER:
        return pa.scalar(step, kind)
    return pa.scalar(step, pa.int32() if kind.bit_width == 32 else pa.int64())


def is_member(array: pa.Array, values: tuple[Value, ...], negated: bool, at: int | None = None) -> pa.Array:
    """Test every cell for equality with one of several constants; a null cell stays null."""
    kind = array.type
    if family(kind) is Family.NULL:
        return pa.nulls(len(array), pa.bool_())
    places = [position(value, kind, at) for value in values]
    low, high = step_range(kind) or (0, 0)
    if pa.types.is_float16(kind):
        array = array.cast(pa.float32())
    scalars = [
        _step_scalar(int(place), kind) if isinstance(place, Fraction) else pa.scalar(place, array.type)
        for place in places
        if not isinstance(place, Fraction) or (place.denominator == 1 and low <= place <= high)
    ]
    cells = _storage(array)
    if not scalars:
        return _everywhere(array, negated)
    if pa.types.is_floating(cells.type):  # is_in tells -0.0 from 0.0
        found = reduce(pc.or_, (pc.equal(cells, scalar) for scalar in scalars))
    else:
        found = pc.is_in(cells, value_set=pa.array([scalar.as_py() for scalar in scalars], cells.type))
    found = pc.invert(found) if negated else found
    return pc.if_else(array.is_valid(), found, pa.scalar(None, pa.bool_()))


def compare_arrays(op: str, left: pa.Array, right: pa.Array, at: int | None = None) -> pa.Array:
    """Compare cells of two columns of one family, row by row.

    Raises:
        RuleFault: The families differ, or have no order.

    """
    kinds = family(left.type), family(right.type)
    if Family.NULL in kinds:
        return pa.nulls(len(left), pa.bool_())
    if kinds[0] is not kinds[1]:
        raise RuleFault(f"compares a {kinds[0]} column with a {kinds[1]} column", at)
    match kinds[0]:
        case Family.NUMBER:
            left, right = _common_numbers(left, right)
            if _mixes_large_integers(left, right):
                return _by_python(op, left.to_pylist(), right.to_pylist())
        case Family.INSTANT | Family.CLOCK | Family.DURATION:
            left, right = _common_times(left, right, at)
            if left.type != right.type:
                steps = (_python_steps(left), _python_steps(right))
                return _by_python(op, *steps)
        case Family.BOOLEAN if op not in ("==", "!="):
            raise RuleFault("orders truth values", at, "compare with == or !=")
        case Family.OTHER:
            raise RuleFault(f"compares columns of a {kinds[0]}", at, _remedy(Family.OTHER))
    return _KERNELS[op](left, right)


def _common_numbers(left: pa.Array, right: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Bring two number columns to types that compare exactly."""
    types = left.type, right.type
    if all(map(pa.types.is_floating, types)):
        return left.cast(pa.float64()), right.cast(pa.float64())
    if any(map(pa.types.is_floating, types)):
        return _float_of_decimal(left), _float_of_decimal(right)
    if not any(map(pa.types.is_decimal, types)):
        if pa.uint64() not in types:
            return left.cast(pa.int64()), right.cast(pa.int64())
        if all(map(pa.types.is_unsigned_integer, types)):
            return left.cast(pa.uint64()), right.cast(pa.uint64())
    scale = (
        max(kind.scale for kind in types if pa.types.is_decimal(kind)) if any(map(pa.types.is_decimal, types)) else 0
    )
    try:
        return left.cast(pa.decimal256(76, scale)), right.cast(pa.decimal256(76, scale))
    except pa.ArrowInvalid:  # beyond 76 digits
        return left.cast(pa.float64(), safe=False), right.cast(pa.float64(), safe=False)


def _float_of_decimal(array: pa.Array) -> pa.Array:
    return array.cast(pa.float64(), safe=False) if pa.types.is_decimal(array.type) else array


def _mixes_large_integers(left: pa.Array, right: pa.Array) -> bool:
    """Whether integers that a float cannot hold meet floats."""
    integers = [array for array in (left, right) if pa.types.is_integer(array.type)]
    if len(integers) != 1:
        return False
    ends = pc.min_max(integers[0]).as_py()
    return ends["min"] is not None and (ends["min"] < -(2**53) or ends["max"] > 2**53)


def _by_python(op: str, left: list[Any], right: list[Any]) -> pa.Array:
    """Compare Python's numbers, which is exact for integers against floats."""
    test: Callable[[Any, Any], bool] = {
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
    }[op]
    pairs = zip(left, right, strict=True)
    return pa.array([None if a is None or b is None else test(a, b) for a, b in pairs], pa.bool_())


def _common_times(left: pa.Array, right: pa.Array, at: int | None) -> tuple[pa.Array, pa.Array]:
    """Bring two columns of times to one type; they keep their own where one cannot hold the other's range."""
    if family(left.type) is Family.INSTANT:
        left, right = _common_zone(left, right, at)
    if left.type == right.type and not pa.types.is_date64(left.type):
        return left, right
    unit = min((_step_ns(left.type), _step_ns(right.type)))
    name = {ns: name for name, ns in _NS.items()}.get(unit, "s")
    kind = {
        Family.INSTANT: lambda: pa.timestamp(name, getattr(left.type, "tz", None)),
        Family.CLOCK: lambda: pa.time64("ns"),
        Family.DURATION: lambda: pa.duration(name),
    }[family(left.type)]()
    try:
        return left.cast(kind), right.cast(kind)
    except pa.ArrowInvalid:
        return left, right


def _common_zone(left: pa.Array, right: pa.Array, at: int | None) -> tuple[pa.Array, pa.Array]:
    """Dates meet zoned timestamps as local dates; instants of two zones meet in UTC."""
    zones = [getattr(array.type, "tz", None) for array in (left, right)]
    if (zones[0] is None) == (zones[1] is None):
        return left, right if zones[0] == zones[1] else right.cast(pa.timestamp(right.type.unit, zones[0]))
    unzoned = left if zones[0] is None else right
    if not pa.types.is_date(unzoned.type):
        raise RuleFault("compares timestamps with a time zone and without one", at)
    return (left, pc.local_timestamp(right)) if unzoned is left else (pc.local_timestamp(left), right)


def _python_steps(array: pa.Array) -> list[int | None]:
    scale = _step_ns(array.type)
    return [None if step is None else step * scale for step in _storage(array).to_pylist()]


# Arithmetic and functions


def arithmetic(op: str, first: pa.Array | Value, second: pa.Array | Value, at: int | None = None) -> pa.Array:
    """Compute numbers, or the time between two instants.

    Integers and decimals stay exact while a decimal of 76 digits holds them, else floats go on. A division by
    zero, or a remainder of one, makes a null.

    Raises:
        RuleFault: An operand is no number.

    """
    left, right = _operand(first, second, at), _operand(second, first, at)
    kinds = family(left.type), family(right.type)
    if Family.NULL in kinds:
        return pa.nulls(len(left), pa.float64())
    if kinds == (Family.INSTANT, Family.INSTANT) and op == "-":
        return _between(left, right, at)
    if kinds == (Family.DURATION, Family.DURATION) and op in "+-":
        left, right = _common_times(left, right, at)
        return pc.add(left, right) if op == "+" else pc.subtract(left, right)
    if kinds != (Family.NUMBER, Family.NUMBER):
        raise RuleFault(f"applies {op} to a {kinds[0]} and a {kinds[1]}", at, "arithmetic needs numbers")
    return _divide(op, left, right) if op in "/%" else _add_or_multiply(op, left, right)


def _operand(value: pa.Array | Value, other: pa.Array | Value, at: int | None) -> pa.Array:
    """A constant becomes an array of the type that meets the other operand exactly."""
    if isinstance(value, pa.Array):
        return value
    if not _is_number(value) or not isinstance(other, pa.Array):
        raise RuleFault("computes with a constant that is no number", at, "arithmetic needs numbers")
    number = Decimal(value)  # type: ignore[arg-type]
    exact = pa.types.is_decimal(other.type)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        scalar = pa.scalar(value, pa.int64())
    elif exact and len(number.as_tuple().digits) <= 38 and -38 <= int(number.as_tuple().exponent) <= 0:
        scalar = pa.scalar(number)
    else:
        scalar = pa.scalar(float(number), pa.float64())
    return pa.repeat(scalar, len(other))


def _between(left: pa.Array, right: pa.Array, at: int | None) -> pa.Array:
    left, right = _common_times(left, right, at)
    if left.type != right.type:  # spans that no common unit holds: seconds are fine enough
        seconds = [
            pa.array([None if s is None else s // 10**9 for s in _python_steps(a)], pa.int64()) for a in (left, right)
        ]
        return pc.subtract(*seconds).cast(pa.duration("s"))
    if pa.types.is_date(left.type):
        left, right = left.cast(pa.timestamp("s")), right.cast(pa.timestamp("s"))
    return pc.subtract(left, right)


def _add_or_multiply(op: str, left: pa.Array, right: pa.Array) -> pa.Array:
    kernel = {"+": pc.add_checked, "-": pc.subtract_checked, "*": pc.multiply_checked}[op]
    types = left.type, right.type
    if not any(map(pa.types.is_floating, types)):
        for widen in ([] if any(map(pa.types.is_decimal, types)) else [_to_int64]) + [_to_decimal]:
            try:
                return kernel(widen(left), widen(right))
            except pa.ArrowInvalid:  # does not fit; the next one is wider
                continue
    return kernel(left.cast(pa.float64(), safe=False), right.cast(pa.float64(), safe=False))


def _to_int64(array: pa.Array) -> pa.Array:
    return array.cast(pa.int64())


def _to_decimal(array: pa.Array) -> pa.Array:
    kind = array.type
    return array.cast(pa.decimal256(kind.precision, kind.scale) if pa.types.is_decimal(kind) else pa.decimal256(20, 0))


def _divide(op: str, left: pa.Array, right: pa.Array) -> pa.Array:
    types = left.type, right.type
    if op == "%" and any(map(pa.types.is_decimal, types)) and not any(map(pa.types.is_floating, types)):
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return pa.array(
            [None if a is None or not b else _remainder(a, b) for a, b in pairs],
            pa.decimal256(76, _scale(types)),
        )
    whole = all(map(pa.types.is_integer, types)) and op == "%" and pa.uint64() not in types
    kind = pa.int64() if whole else pa.float64()
    a, b = left.cast(kind, safe=False), right.cast(kind, safe=False)
    zero = pc.equal(b, pa.scalar(0, kind))
    known = pc.and_kleene(pc.and_(a.is_valid(), b.is_valid()), pc.fill_null(pc.invert(zero), False))
    divisor = pc.if_else(known, b, pa.scalar(1, kind)).to_numpy(zero_copy_only=False)
    dividend = pc.if_else(known, a, pa.scalar(0, kind)).to_numpy(zero_copy_only=False)
    with np.errstate(all="ignore"):
        result = np.mod(dividend, divisor) if op == "%" else np.divide(dividend, divisor)
    return pc.if_else(known, pa.array(result), pa.scalar(None, pa.from_numpy_dtype(result.dtype)))


def _remainder(a: Decimal | int, b: Decimal | int) -> Decimal:
    """Remainder with the sign of the divisor, as for whole numbers; Python gives the dividend's."""
    rest = _WIDE.remainder(Decimal(a), Decimal(b))
    return _WIDE.add(rest, Decimal(b)) if rest and (rest < 0) != (b < 0) else rest


def _scale(types: tuple[pa.DataType, ...]) -> int:
    return max(int(kind.scale) for kind in types if pa.types.is_decimal(kind))


def function(name: str, array: pa.Array, at: int | None = None) -> pa.Array:
    """Compute `len` of texts, bytes and lists, or `abs` of numbers and durations.

    Raises:
        RuleFault: The function has no meaning for the type.

    """
    kind, group = array.type, family(array.type)
    if group is Family.NULL:
        return pa.nulls(len(array), pa.int64())
    if name == "abs":
        if group is Family.DURATION:
            return pc.abs(array.view(pa.int64())).view(kind)
        if group is Family.NUMBER:
            return array if pa.types.is_unsigned_integer(kind) else _absolute(array)
    elif group is Family.TEXT:
        return pc.utf8_length(array).cast(pa.int64())
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pc.binary_length(array).cast(pa.int64())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pc.list_value_length(array).cast(pa.int64())
    raise RuleFault(f"applies {name}() to a {group} column", at)


def _absolute(array: pa.Array) -> pa.Array:
    if pa.types.is_integer(array.type):
        array = array.cast(pa.int64())
    elif pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    try:
        return pc.abs_checked(array)
    except pa.ArrowInvalid:  # -2**63 has no positive
        return pc.abs(_to_decimal(array))
