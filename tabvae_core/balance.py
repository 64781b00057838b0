"""Classes in chosen numbers: which row of a table is of which class, before the rest of the row is drawn to fit it.

Classes that are not named divide the remaining rows among themselves as they were learned. Nulls are no class: every
row of a balanced table has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs.base import Codec
from tabvae_core.codecs.ordinal import base_type, plain
from tabvae_core.errors import SpecError
from tabvae_core.given import UNKNOWN_CLASS, given_values
from tabvae_core.schema import TableSchema
from tabvae_core.spec import BalanceSpec, Kind

__all__ = ["ClassRows", "apportion", "class_indices", "class_rows", "split_balance"]

_WHERE = "sample.balance"
_SWITCHES = ("true", "false")
_ORDER = 0xBA1
"""Tells the random order of the rows from other uses of a sample's seed."""


@dataclass(frozen=True)
class ClassRows:
    """How many rows of a table are of each class.

    Args:
        column: Column of the classes.
        values: Its classes, shape (k,).
        rows: Rows of each, shape (k,).

    """

    column: str
    values: pa.Array
    rows: npt.NDArray[np.int64]

    def table(self, seed: int) -> pa.Table:
        """The column alone, its rows in an order that follows from the seed; a dictionary, 4 bytes a row."""
        codes = np.repeat(np.arange(len(self.rows), dtype=np.int32), self.rows)
        mixed = np.random.default_rng([seed, _ORDER]).permutation(codes)
        return pa.table({self.column: pa.DictionaryArray.from_arrays(pa.array(mixed), self.values)})


def class_rows(balance: BalanceSpec, codec: Codec, schema: TableSchema, rows: int) -> ClassRows:
    """Divide rows among the classes of a column.

    Args:
        balance: Shares or counts of some classes.
        codec: What was learned of the column.
        schema: The learned table.
        rows: Rows of the table.

    Returns:
        Exactly the counts, or the shares to within a row.

    Raises:
        SpecError: The column is not one of classes, a class was never learned, or the numbers do not add up.

    """
    balance.check_rows(rows)
    named = class_indices([*balance.shares, *balance.counts], balance.column, codec, schema, _WHERE)
    values, learned = _classes(balance.column, codec, schema, _WHERE)
    rest = learned.copy()
    rest[named] = 0
    result = np.zeros(len(values), dtype=np.int64)
    if balance.counts:
        result[named] = list(balance.counts.values())
        left = rows - int(result.sum())
        if left and not rest.any():
            raise SpecError(
                f"{_WHERE}.counts names all classes of column {balance.column!r}, and {left:,} rows are left over",
                hint="leave a class out, which gets the other rows, or lower the number of rows",
            )
        return ClassRows(balance.column, values, result + apportion(rest, left) if left else result)
    weights = np.zeros(len(values))
    weights[named] = list(balance.shares.values())
    left_share = 1 - weights.sum()
    if rest.any():
        weights += max(left_share, 0.0) * rest / rest.sum()
    elif left_share > 1e-9:
        raise SpecError(
            f"{_WHERE}.shares names all classes of column {balance.column!r}, and adds up to {weights.sum():.6g}",
            hint="leave a class out, which gets the rest, or let the shares add up to 1",
        )
    return ClassRows(balance.column, values, apportion(weights, rows))


def class_indices(names: Iterable[str], column: str, codec: Codec, schema: TableSchema, where: str) -> list[int]:
    """Find named classes among those that were learned.

    Args:
        names: Classes as a spec writes them.
        column: Their column.
        codec: What was learned of it.
        schema: The learned table.
        where: Place in the spec, for errors.

    Raises:
        SpecError: The column is not one of classes, or has no such class.

    """
    values, _ = _classes(column, codec, schema, where)
    kind = base_type(schema.arrow.field(column).type)
    found = []
    for name in names:
        cell = plain(pa.array([given_values({column: name}, schema, where)[column]], kind))
        index = pc.index_in(cell, value_set=values)[0].as_py()
        if index is None:
            quoted = "; YAML reads yes and no as true and false unless they are quoted" if name in _SWITCHES else ""
            raise SpecError(
                f"{where}: {name!r} is no class of column {column!r}, or too rare to be learned",
                hint=f"{UNKNOWN_CLASS}{quoted}",
            )
        found.append(int(index))
    return found


def _classes(column: str, codec: Codec, schema: TableSchema, where: str) -> tuple[pa.Array, npt.NDArray[np.float64]]:
    classes, kind = codec.classes(), schema.column(column).kind
    if kind is Kind.CONSTANT or (classes is not None and len(classes[0]) < 2):
        raise SpecError(
            f"{where}: column {column!r} has one class only", hint="name a column of which several classes are learned"
        )
    if classes is None:
        raise SpecError(
            f"{where}: column {column!r} is of kind {kind.value}, and not one of classes",
            hint=f"name a category, a boolean or a number of few values, or set columns.{column}.kind to category",
        )
    return classes


def apportion(weights: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.int64]:
    """Divide rows in proportion to weights by largest remainders (Hamilton's method).

    Args:
        weights: Not negative, not all zero, shape (k,).
        rows: Rows in all.

    Returns:
        Rows of each, shape (k,): they add up to `rows`, and none is off its exact share by a row or more.

    """
    quotas = rows * weights / weights.sum()
    result: npt.NDArray[np.int64] = np.floor(quotas).astype(np.int64)
    left = rows - int(result.sum())
    result[np.argsort(result - quotas, kind="stable")[:left]] += 1
    return result


def split_balance(options: Iterable[str]) -> dict[str, Any]:
    """Read `COLUMN:VALUE=SHARE` options of a command line as the mapping of a `BalanceSpec`.

    A whole number is rows, one with a point is a share.

    Raises:
        SpecError: An option is not of this form, or options name several columns or one class twice.

    """
    columns: list[str] = []
    found: dict[str, dict[str, float]] = {"shares": {}, "counts": {}}
    for option in options:
        target, separator, number = option.rpartition("=")
        column, colon, value = target.partition(":")
        kind = "counts" if re.fullmatch(r"\d+", number) else "shares"
        if not (separator and colon and column and value and re.fullmatch(r"\d+|\d*\.\d+", number)):
            raise SpecError(
                f"--balance must be COLUMN:VALUE=SHARE, however: {option!r}",
                hint="a share such as churned:yes=0.5, or rows such as churned:yes=500",
            )
        if any(value in classes for classes in found.values()):
            raise SpecError(f"--balance names class {value!r} twice", hint="give each class once")
        columns.append(column)
        found[kind][value] = float(number) if kind == "shares" else int(number)
    if len(set(columns)) > 1:
        raise SpecError(f"--balance names columns {' and '.join(dict.fromkeys(columns))}", hint="balance one column")
    return {"column": columns[0], **{kind: classes for kind, classes in found.items() if classes}}
