"""Dates and timestamps: which week, which weekday, what time of day, so that seasons and working hours survive.

A timestamp with a zone is taken apart in its zone's wall-clock time, because shops open at nine there and not in UTC.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs.base import Codec, CodecState, Encoded, Fitter, FloatArray, IntArray, Slot
from tabvae_core.codecs.number import prior_of, round_units
from tabvae_core.codecs.numeric import MAX_TOKENS, NumericFitter, NumericTable
from tabvae_core.codecs.ordinal import (
    base_type,
    from_ordinal,
    ordinal_of,
    plain,
    restore_type,
    to_ordinal,
    unit_of,
)
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import PrivacySpec

__all__ = ["DatetimeCodec", "DatetimeFitter"]

_DAY_NS = 86_400_000_000_000
_MONDAY = 3  # 1970-01-01 was a Thursday


def _wall_clock(array: pa.Array) -> pa.Array:
    """Timestamps with a zone as that zone's naive local time; everything else as it is."""
    cells = plain(array)
    if pa.types.is_timestamp(cells.type) and cells.type.tz is not None:
        return pc.local_timestamp(cells)
    return cells


def _split(ordinal: npt.NDArray[Any], per_day: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    days = np.floor_divide(ordinal, per_day)
    return days.astype(np.int64), (ordinal - days * per_day).astype(np.int64)


class DatetimeCodec(Codec):
    """Codec of one date or timestamp.

    Args:
        name: Column.
        arrow_type: Exact type of the cells.
        day: Table of the days, or of the weeks when `weekday` is given.
        weekday: Training cells of Monday … Sunday, shape (7,); None where days are tokens of their own.
        clock: Table of the time since midnight in units of the type; None for dates.
        draw_null: Whether nulls may be generated.
        ends: Protected minimum and maximum as ordinals; a first week begins before the first day.

    """

    kind = "datetime"

    def __init__(
        self,
        name: str,
        arrow_type: pa.DataType,
        day: NumericTable,
        weekday: npt.NDArray[np.float64] | None,
        clock: NumericTable | None,
        *,
        draw_null: bool,
        ends: tuple[int, int] | None = None,
    ) -> None:
        self.name, self.arrow_type, self.draw_null, self.ends = name, arrow_type, draw_null, ends
        self.day, self.weekday, self.clock = day, weekday, clock
        self._per_day = _DAY_NS // (unit_of(arrow_type) or 1)
        self._absent = int(day.has_null)  # later slots of a null row hold a token that says so
        slots = [Slot(f"{name}.day" if weekday is None else f"{name}.week", max(day.n_tokens, 1), day.n_levels)]
        if weekday is not None:
            slots.append(Slot(f"{name}.weekday", 7 + self._absent, parent=0))
        if clock is not None:
            slots.append(Slot(f"{name}.clock", clock.n_tokens + self._absent, clock.n_levels, parent=0))
        self.slots = tuple(slots)

    def encode(self, array: pa.Array) -> Encoded:
        """Encode cells."""
        ordinal, valid = to_ordinal(_wall_clock(array))
        days, clock = _split(np.where(valid, ordinal, 0), self._per_day)
        weeks, weekday = np.divmod(days + _MONDAY, 7)
        parts = [self.day.encode(days if self.weekday is None else weeks, valid)]
        if not self.day.has_null and not valid.all():
            parts[0][0][~valid] = int(np.argmax(self.day.counts))
        if self.weekday is not None:
            zeros = np.zeros(len(days), np.float32)
            tokens = np.where(valid, weekday, 7 if self._absent else 0).astype(np.int32)
            parts.append((tokens, zeros, zeros))
        if self.clock is not None:
            tokens, low, high = self.clock.encode(clock, np.ones(len(clock), dtype=np.bool_))
            if self._absent:
                tokens = np.where(valid, tokens, self.clock.n_tokens).astype(np.int32)
                low, high = (
                    np.where(valid, low, 0).astype(np.float32),
                    np.where(valid, high, 0).astype(np.float32),
                )
            parts.append((tokens, low, high))
        tokens, low, high = (np.stack([part[i] for part in parts], axis=1) for i in range(3))
        return Encoded(tokens, low, high)

    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Decode to cells of exactly the column's type."""
        days, valid = self.day.decode(tokens[:, 0], values[:, 0])
        at = 1
        if self.weekday is not None:
            days = days * 7 - _MONDAY + np.minimum(tokens[:, at], 6)
            at += 1
        ordinal = np.where(valid, days, 0).astype(np.int64) * self._per_day
        if self.clock is not None:
            clock, _ = self.clock.decode(np.minimum(tokens[:, at], self.clock.n_tokens - 1), values[:, at])
            ordinal += np.clip(clock, 0, self._per_day - 1)
        kind = base_type(self.arrow_type)
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            local = from_ordinal(ordinal, valid, pa.timestamp(kind.unit))
            # Clocks that jump have hours that happen twice or never: the earlier reading stands.
            cells = pc.assume_timezone(local, kind.tz, ambiguous="earliest", nonexistent="earliest")
        else:
            cells = from_ordinal(ordinal, valid, kind)
        if self.ends is not None:
            exact, _ = to_ordinal(cells)
            cells = from_ordinal(np.clip(exact, *self.ends), valid, kind)
        return restore_type(cells, self.arrow_type)

    @property
    def null_token(self) -> int | None:
        """Token of a null day; what follows it is null by itself."""
        return self.day.null_token if self.day.has_null else None

    def log_prior(self) -> list[npt.NDArray[np.float32] | None]:
        """Log frequencies; what follows a null day is always "absent", what follows another never."""
        priors: list[npt.NDArray[np.float32] | None] = [prior_of(self.day, draw_null=self.draw_null)]
        if self.weekday is not None:
            priors.append(self._after_day(np.log((self.weekday + 0.5) / (self.weekday + 0.5).sum())))
        if self.clock is not None:
            priors.append(self._after_day(prior_of(self.clock, draw_null=True)))
        return priors

    def _after_day(self, prior: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if not self._absent:
            return np.tile(prior, (self.slots[0].n_tokens, 1)).astype(np.float32)
        grid = np.full((self.slots[0].n_tokens, len(prior) + 1), -np.inf)
        grid[:, :-1] = prior
        grid[self.day.null_token] = -np.inf
        grid[self.day.null_token, -1] = 0.0
        return grid.astype(np.float32)

    def token_values(self) -> list[npt.NDArray[np.float32] | None]:
        """Places of the days, weekdays and times that are tokens."""
        absent = np.full(self._absent, np.nan)
        values: list[npt.NDArray[np.float32] | None] = [self.day.token_values()]
        if self.weekday is not None:
            values.append(np.concatenate([(np.arange(7) - 3) / 2, absent]).astype(np.float32))
        if self.clock is not None:
            values.append(np.concatenate([self.clock.token_values(), absent]).astype(np.float32))
        return values

    def tables(self) -> list[NumericTable | None]:
        """Tables of day and time; weekdays have none."""
        tables: list[NumericTable | None] = [self.day]
        if self.weekday is not None:
            tables.append(None)
        if self.clock is not None:
            tables.append(self.clock)
        return tables

    def value_ranges(self) -> list[tuple[float, float]]:
        """Ranges of day and time between their protected ends."""
        ranges = [self.day.z_range()]
        if self.weekday is not None:
            ranges.append((0.0, 0.0))
        if self.clock is not None:
            ranges.append(self.clock.z_range())
        return ranges

    def state(self) -> CodecState:
        """Tables of day and clock."""
        values: dict[str, Any] = {"name": self.name, "draw_null": self.draw_null, "day": self.day.to_json()}
        if self.ends is not None:
            values["ends"] = list(self.ends)
        arrays = {f"day.{k}": v for k, v in self.day.to_arrays().items()}
        if self.weekday is not None:
            arrays["weekday"] = self.weekday
        if self.clock is not None:
            values["clock"] = self.clock.to_json()
            arrays |= {f"clock.{k}": v for k, v in self.clock.to_arrays().items()}
        return CodecState(self.kind, values, arrays)

    @classmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild from a bundle."""

        def table(part: str) -> NumericTable:
            arrays = {k.removeprefix(f"{part}."): v for k, v in state.arrays.items() if k.startswith(f"{part}.")}
            return NumericTable.restore(state.values[part], arrays)

        return cls(
            state.values["name"], arrow_type, table("day"), state.arrays.get("weekday"),
            table("clock") if "clock" in state.values else None, draw_null=state.values["draw_null"],
            ends=tuple(state.values["ends"]) if "ends" in state.values else None,
        )  # fmt: skip


class DatetimeFitter(Fitter):
    """Partial result over days, weeks and times of day."""

    def __init__(self, column: ColumnSchema, arrow_type: pa.DataType, privacy: PrivacySpec) -> None:
        self.column, self.arrow_type = column, arrow_type
        self._per_day = _DAY_NS // (unit_of(arrow_type) or 1)

        def numeric(units: tuple[int, ...]) -> NumericFitter:
            return NumericFitter(
                integer=True,
                units=units,
                min_rows=privacy.min_category_rows,
                protect=privacy.protect_extremes,
            )

        self._days, self._weeks = numeric(()), numeric(())
        self._clock = numeric(round_units(arrow_type))
        self._weekday = np.zeros(7)
        self._has_clock = False

    def observe(self, array: pa.Array, first_row: int) -> None:
        """Take in cells."""
        ordinal, valid = to_ordinal(_wall_clock(array))
        days, clock = _split(np.where(valid, ordinal, 0), self._per_day)
        weeks, weekday = np.divmod(days + _MONDAY, 7)
        self._days.observe(days, valid, first_row)
        self._weeks.observe(weeks, valid, first_row)
        self._clock.observe(clock, valid, first_row)
        self._weekday += np.bincount(weekday[valid], minlength=7)
        self._has_clock |= bool(clock[valid].any())

    def merge(self, other: Self) -> None:
        """Take in another partial result."""
        self._days.merge(other._days)
        self._weeks.merge(other._weeks)
        self._clock.merge(other._clock)
        self._weekday = self._weekday + other._weekday
        self._has_clock |= other._has_clock

    def finish(self) -> DatetimeCodec:
        """Take days as they are when few, else weeks and weekdays."""
        days = self._days.finish()
        few = days.n_levels == 0 or (days.highest - days.lowest) < MAX_TOKENS
        clock = self._clock_table() if self._has_clock else None
        return DatetimeCodec(
            self.column.name, self.arrow_type, days if few else self._weeks.finish(),
            None if few else self._weekday, clock, draw_null=self.column.nullable, ends=self._ends(),
        )  # fmt: skip

    def _ends(self) -> tuple[int, int] | None:
        low, high = self.column.minimum, self.column.maximum
        if low is None or high is None:
            return None
        return int(ordinal_of(low, self.arrow_type)), int(ordinal_of(high, self.arrow_type))

    def _clock_table(self) -> NumericTable:
        self._clock._nulls = 0  # a null is told by the day alone
        return self._clock.finish()
