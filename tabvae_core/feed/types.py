"""SQL types as far as a load must know them: what a column needs, and whether the type that it has will do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import pyarrow as pa

from tabvae_core.plain import plain_type

__all__ = ["Fit", "SqlType", "fit", "needed_type", "parse_type", "stored_type"]

Family = Literal[
    "integer", "decimal", "float", "boolean", "text", "date", "time", "timestamp", "timestamptz", "bytes", "any"
]

_DECIMAL_DIGITS = 38


@dataclass(frozen=True)
class SqlType:
    """A type, without the names that each database has for it."""

    family: Family
    """ "any": of no family known here, such as an enumeration or uuid; the database decides about its values."""
    size: int | None = None
    """Bits of a number, digits of a decimal, longest text; None: no limit."""
    scale: int = 0
    """Digits of a decimal behind the point."""


class Fit(Enum):
    """Whether values go into a column."""

    NEVER = "never"
    BY_VALUE = "some values might not"
    ALWAYS = "always"


def needed_type(kind: pa.DataType) -> SqlType:
    """Name the SQL type that holds every value of a column exactly."""
    plain = plain_type(kind)
    if pa.types.is_integer(plain):
        return SqlType("integer", max(16, plain.bit_width))
    if pa.types.is_decimal(plain):
        return SqlType("decimal", plain.precision + max(0, -plain.scale), max(0, plain.scale))
    if pa.types.is_floating(plain):
        return SqlType("float", plain.bit_width)
    if pa.types.is_timestamp(plain):
        return SqlType("timestamptz" if plain.tz else "timestamp")
    families: dict[pa.DataType, Family] = {
        pa.bool_(): "boolean",
        pa.date32(): "date",
        pa.time64("us"): "time",
        pa.binary(): "bytes",
    }
    return SqlType(families.get(plain, "text"))


_INTEGERS = {
    "tinyint": 8, "int1": 8, "smallint": 16, "int2": 16, "smallserial": 16, "short": 16, "mediumint": 24,
    "integer": 32, "int": 32, "int4": 32, "serial": 32, "signed": 32, "bigint": 64, "int8": 64, "bigserial": 64,
    "long": 64, "hugeint": 128,
}  # fmt: skip
_FAMILIES: tuple[tuple[str, Family], ...] = (
    (r"(numeric|decimal|dec|number)", "decimal"),
    (r"(bool|boolean|bit)", "boolean"),
    (r"(text|varchar|character varying|char|character|nvarchar|nchar|bpchar|clob|string|\w+text)", "text"),
    (r"(timestamptz|timestamp with (local )?time zone|datetimeoffset)", "timestamptz"),
    (r"(timestamp|timestamp without time zone|timestamp_\w+|datetime2?|smalldatetime)", "timestamp"),
    (r"(time|time without time zone)", "time"),
    (r"date", "date"),
    (r"(bytea|blob|\w+blob|binary|varbinary|bytes)", "bytes"),
)


def parse_type(text: str) -> SqlType:
    """Read a type as a database writes it, such as "character varying(20)"; one that is not known is "any"."""
    sizes = [int(number) for number in re.findall(r"\d+", "".join(re.findall(r"\(([^)]*)\)", text)))]
    name = " ".join(re.sub(r"\([^)]*\)", " ", text).lower().split())
    if name in _INTEGERS:
        return SqlType("integer", _INTEGERS[name])
    if name in ("real", "float4", "float24"):
        return SqlType("float", 32)
    if name in ("double precision", "double", "float8", "float"):
        return SqlType("float", 64)
    family: Family = next((family for pattern, family in _FAMILIES if re.fullmatch(pattern, name)), "any")
    if family == "decimal":
        return SqlType(family, sizes[0] if sizes else None, sizes[1] if len(sizes) > 1 else 0)
    if family == "text":
        return SqlType(family, sizes[0] if sizes else 1 if name in ("char", "character", "nchar") else None)
    return SqlType(family)


def fit(needed: SqlType, existing: SqlType) -> Fit:
    """Say whether values of one type go into a column of another without loss.

    Rounding a float to a decimal's scale is no loss, since a float has no exact value to lose; an instant without a
    zone is one of UTC.
    """
    if existing.family == "any":
        return Fit.ALWAYS
    if needed.family == existing.family:
        return _fit_within(needed, existing)
    numbers = ("integer", "decimal", "float")
    if needed.family in numbers and existing.family in numbers:
        if existing.family == "float" or (existing.family == "decimal" and existing.size is None):
            return Fit.ALWAYS
        return Fit.BY_VALUE
    safe: dict[Family, tuple[Family, ...]] = {
        "boolean": ("integer",),
        "date": ("timestamp", "timestamptz"),
        "timestamp": ("timestamptz",),
        "timestamptz": ("timestamp",),
    }
    return Fit.ALWAYS if existing.family in safe.get(needed.family, ()) else Fit.NEVER


def _fit_within(needed: SqlType, existing: SqlType) -> Fit:
    """Compare two types of one family."""
    if needed.family == "float" or existing.size is None:
        return Fit.ALWAYS
    if needed.size is None:
        return Fit.BY_VALUE
    whole = existing.size - existing.scale >= needed.size - needed.scale
    return Fit.ALWAYS if whole and existing.scale >= needed.scale else Fit.BY_VALUE


def stored_type(plain: pa.DataType, existing: SqlType) -> pa.DataType:
    """Name the Arrow type in which values of a plain type are handed to a column, to be cast without loss."""
    family = existing.family
    if family == "integer" and not pa.types.is_string(plain):
        return {8: pa.int8(), 16: pa.int16(), 24: pa.int32(), 32: pa.int32()}.get(existing.size or 64, pa.int64())
    exact = pa.types.is_integer(plain) or pa.types.is_decimal(plain)
    if family == "decimal" and exact and existing.size is not None and existing.size <= _DECIMAL_DIGITS:
        return pa.decimal128(existing.size, existing.scale)
    if family == "float" and exact:
        return pa.float64()
    if family == "timestamp":
        return pa.timestamp("us")
    if family == "timestamptz":
        return pa.timestamp("us", tz="UTC")
    return plain
