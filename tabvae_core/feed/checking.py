"""A release held against a table that exists, before a row is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.errors import DataError
from tabvae_core.feed.database import Column
from tabvae_core.feed.types import Fit, fit, needed_type, stored_type
from tabvae_core.plain import as_plain, plain_type
from tabvae_core.schema import type_name
from tabvae_core.tables import TableSource

__all__ = ["Pair", "check_values", "pair_columns"]


@dataclass(frozen=True)
class Pair:
    """A column of a release, and the column of the table that takes it."""

    field: pa.Field
    column: Column

    @property
    def stored(self) -> pa.DataType:
        """Arrow type in which the values are handed over."""
        return stored_type(plain_type(self.field.type), self.column.type)

    @property
    def depends_on_values(self) -> bool:
        """Whether the types alone do not say that every row goes in."""
        return not self.column.nullable or fit(needed_type(self.field.type), self.column.type) is Fit.BY_VALUE

    def __str__(self) -> str:
        return f"{self.field.name} ({type_name(self.field.type)}, the table has {self.column.shown})"


def pair_columns(where: str, schema: pa.Schema, columns: Sequence[Column]) -> list[Pair]:
    """Match a release's columns with a table's, by name; upper and lower case count where both are there.

    Args:
        where: The table, for messages.
        schema: Schema of the release.
        columns: Columns of the table.

    Raises:
        DataError: Names every column that is missing, too many, computed, or of a type that does not fit.

    """
    exact = {column.name: column for column in columns}
    folded = {column.name.casefold(): column for column in columns}
    found = [(field, exact.get(field.name) or folded.get(field.name.casefold())) for field in schema]
    pairs = [Pair(field, column) for field, column in found if column is not None]
    taken = [pair.column for pair in pairs]
    _refuse(
        where,
        [
            ("lacks", [field.name for field, column in found if column is None]),
            ("would be filled twice in", sorted({c.name for c in taken if taken.count(c) > 1})),
            ("has, without a default of its own,", [c.name for c in columns if c not in taken and not c.filled]),
            ("computes", [pair.column.name for pair in pairs if pair.column.computed]),
            ("cannot take", [str(p) for p in pairs if fit(needed_type(p.field.type), p.column.type) is Fit.NEVER]),
        ],
    )
    return pairs


def check_values(where: str, pairs: Iterable[Pair], source: TableSource) -> None:
    """Look through the columns whose types do not decide whether every value goes in.

    Raises:
        DataError: Names every column that holds nulls for a NOT NULL, or values that are too large or too long.

    """
    doubtful = [pair for pair in pairs if pair.depends_on_values]
    nulls: set[str] = set()
    unfit: set[str] = set()
    for batch in source.batches([pair.field.name for pair in doubtful]) if doubtful else ():
        for pair, array in zip(doubtful, batch.columns, strict=True):
            if array.null_count and not pair.column.nullable:
                nulls.add(pair.column.name)
            if not _goes_in(pair, array):
                unfit.add(str(pair))
    _refuse(where, [("is NOT NULL where there are nulls in", sorted(nulls)), ("is too narrow for", sorted(unfit))])


def _goes_in(pair: Pair, array: pa.Array) -> bool:
    try:
        values = as_plain(array, pair.stored)
    except pa.ArrowInvalid:
        return False
    kind = pair.column.type
    if kind.size is None:
        return True
    if pa.types.is_string(values.type):
        return bool((pc.max(pc.utf8_length(values)).as_py() or 0) <= kind.size)
    if kind.family == "decimal" and pa.types.is_floating(values.type):
        largest = pc.max(pc.abs(values.filter(pc.is_finite(values)))).as_py() or 0.0
        return bool(largest < 10.0 ** (kind.size - kind.scale))
    return True


def _refuse(where: str, findings: Sequence[tuple[str, Sequence[str]]]) -> None:
    said = [f"it {what} {', '.join(names)}" for what, names in findings if names]
    if said:
        raise DataError(
            f"{where} does not take this release: {'; '.join(said)}",
            hint="alter the table, or name another: one that does not exist is created",
        )
