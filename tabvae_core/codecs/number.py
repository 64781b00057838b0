"""Numbers, durations and times of day: one slot of levels, null and spikes (see `numeric`)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.base import Codec, CodecState, Encoded, Fitter, FloatArray, IntArray, Slot
from tabvae_core.codecs.numeric import NumericFitter, NumericTable
from tabvae_core.codecs.ordinal import (
    base_type,
    from_ordinal,
    is_integer_like,
    plain,
    restore_type,
    to_ordinal,
    unit_of,
)
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import PrivacySpec

__all__ = ["NumberCodec", "NumberFitter", "prior_of"]

_LEAST_EDGE = 1e-3
"""Where the cell of a small number reaches down to zero, its lower edge as a share of the upper one."""
_SECOND = 1_000_000_000
_TIME_UNITS_NS = tuple(
    n * _SECOND for n in (1e-6, 1e-3, 1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
)


class NumberCodec(Codec):
    """Codec of one number, with the exact values that many rows share as tokens."""

    kind = "number"

    def __init__(self, name: str, arrow_type: pa.DataType, table: NumericTable, *, draw_null: bool) -> None:
        self.name, self.arrow_type, self.table, self.draw_null = name, arrow_type, table, draw_null
        self.slots = (Slot(name, table.n_tokens, table.n_levels),) if table.n_tokens > 1 or table.n_levels else ()

    def encode(self, array: pa.Array) -> Encoded:
        """Encode cells; nulls that were never learned become the most frequent token."""
        values, valid = to_ordinal(plain(array))
        if not self.slots:
            empty = np.zeros((len(valid), 0))
            return Encoded(empty.astype(np.int32), empty.astype(np.float32), empty.astype(np.float32))
        tokens, low, high = self.table.encode(values, valid)
        if not self.table.has_null and not valid.all():
            tokens[~valid] = int(np.argmax(self.table.counts))
        return Encoded(tokens[:, None], low[:, None], high[:, None])

    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Decode to cells of exactly the column's type."""
        if self.slots:
            ordinal, valid = self.table.decode(tokens[:, 0], values[:, 0])
        else:
            ordinal, valid = self.table.decode(np.zeros(len(rows), np.int32), np.zeros(len(rows)))
        return self.cells(ordinal, valid)

    def cells(self, ordinal: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> pa.Array:
        """Turn ordinals (n,) into cells of exactly the column's type, null where not valid."""
        return restore_type(from_ordinal(ordinal, valid, base_type(self.arrow_type)), self.arrow_type)

    @property
    def _unit(self) -> float:
        """Real value of one ordinal."""
        kind = base_type(self.arrow_type)
        return float(10.0 ** -int(kind.scale)) if pa.types.is_decimal(kind) else 1.0

    def real_ends(self) -> tuple[float, float]:
        """Real values between which all cells of levels lie."""
        half = float(self.table.steps[-1]) / 2 if self.table.n_levels else 0.0
        ends = (self.table.lowest - half, self.table.highest + half)
        low, high = ((end + self.table.base) * self._unit for end in ends)
        return low, high

    def log_cells(
        self, tokens: npt.NDArray[Any], offsets: npt.NDArray[np.float64], origin: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Logs of cells: middle and width of each, and its width in N(0, 1), shape (n,) each.

        Args:
            tokens: Tokens of the cells, shape (n,).
            offsets: Their values, from the table's base on.
            origin: Real values that they are counted from, shape (n,).

        Returns:
            The width is zero where a cell has no log: a token without value, or a value not above its origin.

        """
        (low, high), (start, end) = self.table.edges(tokens, offsets)
        low, high = ((edge + self.table.base) * self._unit - origin for edge in (low, high))
        there = (tokens < self.table.n_levels) & (high > 0) & (low + high > 0)
        low = np.maximum(low, _LEAST_EDGE * high)
        low, high = (np.log(np.where(there, edge, 1.0)) for edge in (low, high))
        return (low + high) / 2, high - low, np.where(there, end - start, 1.0)

    def places_of(self, tokens: npt.NDArray[Any], real: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Places in N(0, 1) of real values at the levels of tokens, shape (n,)."""
        return self.table.places(tokens, real / self._unit - self.table.base)

    def state(self) -> CodecState:
        """Tables and scalars."""
        values = {"name": self.name, "draw_null": self.draw_null, "table": self.table.to_json()}
        return CodecState(self.kind, values, self.table.to_arrays())

    @classmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild from a bundle."""
        table = NumericTable.restore(state.values["table"], dict(state.arrays))
        return cls(state.values["name"], arrow_type, table, draw_null=state.values["draw_null"])

    @property
    def null_token(self) -> int | None:
        """Token of null."""
        return self.table.null_token if self.slots and self.table.has_null else None

    def classes(self) -> tuple[pa.Array, npt.NDArray[np.float64]] | None:
        """The values of a number that has few of them."""
        if self.table.n_levels or not self.slots:
            return None
        first = self.table.n_tokens - len(self.table.spikes)
        tokens = np.arange(first, self.table.n_tokens)
        values = from_ordinal(*self.table.decode(tokens, np.zeros(len(tokens))), base_type(self.arrow_type))
        return values, self.table.counts[first:]

    def log_prior(self) -> list[npt.NDArray[np.float32] | None]:
        """Log frequencies of levels, null and spikes."""
        return [prior_of(self.table, draw_null=self.draw_null)] if self.slots else []

    def token_values(self) -> list[npt.NDArray[np.float32] | None]:
        """Places of the spikes."""
        return [self.table.token_values()] if self.slots else []

    def tables(self) -> list[NumericTable | None]:
        """The number's table."""
        return [self.table] if self.slots else []

    def value_ranges(self) -> list[tuple[float, float]]:
        """Range between the protected ends."""
        return [self.table.z_range()] if self.slots else []


def prior_of(table: NumericTable, *, draw_null: bool) -> npt.NDArray[np.float32]:
    """Smoothed log frequencies of a numeric slot's tokens, shape (n_tokens,); null -inf where it must not be drawn."""
    prior = np.log((table.counts + 0.5) / (table.counts + 0.5).sum())
    if table.has_null and not draw_null:
        prior[table.null_token] = -np.inf
    result: npt.NDArray[np.float32] = prior.astype(np.float32)
    return result


class NumberFitter(Fitter):
    """Partial result over a number's cells."""

    def __init__(self, column: ColumnSchema, arrow_type: pa.DataType, privacy: PrivacySpec) -> None:
        self.column, self.arrow_type = column, arrow_type
        self._numeric = NumericFitter(
            integer=is_integer_like(arrow_type),
            units=round_units(arrow_type),
            min_rows=privacy.min_category_rows,
            protect=privacy.protect_extremes,
            relative_error=_relative_error(arrow_type),
        )

    def observe(self, array: pa.Array, first_row: int) -> None:
        """Take in cells."""
        values, valid = to_ordinal(plain(array))
        self._numeric.observe(values, valid, first_row)

    def merge(self, other: Self) -> None:
        """Take in another partial result."""
        self._numeric.merge(other._numeric)

    def finish(self) -> NumberCodec:
        """Decide spikes, levels and knots."""
        table = self._numeric.finish()
        return NumberCodec(self.column.name, self.arrow_type, table, draw_null=self.column.nullable)


def round_units(arrow_type: pa.DataType) -> tuple[int, ...]:
    """Candidates for round values in ordinals of a type: powers of ten, or seconds, minutes, hours, days."""
    unit = unit_of(arrow_type)
    if unit is None:
        return tuple(10**k for k in range(1, 13))
    return tuple(int(ns // unit) for ns in _TIME_UNITS_NS if ns >= 2 * unit and ns % unit == 0)


def _relative_error(arrow_type: pa.DataType) -> float:
    kind = base_type(arrow_type)
    if pa.types.is_float16(kind):
        return 5e-4
    return 6e-8 if pa.types.is_float32(kind) else 1e-15
