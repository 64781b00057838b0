"""Keys made anew in the format of the real ones: integers, texts, bytes.

Learned are the format and the share of nulls, never a key. A made key is a keyed permutation of the row's
number in the synthetic table, so keys differ over all shards without any state. The real keys are not
stored, hence a made key can equal a real one by chance: of m keys made beside n real ones in a format of
room N, about n m / N. Rows that outnumber the room get longer keys.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs._nulls import NULL, cells_with_nulls, is_null, null_log_prior, null_slots, presence
from tabvae_core.codecs.base import Codec, CodecState, Encoded, Fitter, FloatArray, IntArray
from tabvae_core.codecs.formats import BYTES, FormatStats, KeyMaker, Variant, draw_key, permute, uniform
from tabvae_core.codecs.ordinal import (
    base_type,
    from_ordinal,
    is_binary_like,
    is_orderable,
    is_string_like,
    plain,
    restore_type,
    to_ordinal,
)
from tabvae_core.errors import DataError
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import PrivacySpec

__all__ = ["IdentifierCodec", "IdentifierFitter", "is_key_type"]

_HEADROOM = 10
"""Rows that a format has room for, as a multiple of the rows learned."""
_DENSE = 0.5
"""Share of the integers between its ends that a sequence uses: held-out rows leave gaps."""
_WIDE_DECIMAL_DIGITS = 15
_MAX_ROOM = 2**62
_POWERS = np.array([10**i for i in range(1, 20)], dtype=np.uint64)

Span = tuple[int, int, float]
"""First and last integer, and share of the rows."""


def is_key_type(arrow_type: pa.DataType) -> bool:
    """Whether cells of the type can be keys: text, bytes, integers, decimals without fraction."""
    kind = base_type(arrow_type)
    return bool(
        is_string_like(kind)
        or is_binary_like(kind)
        or pa.types.is_integer(kind)
        or (pa.types.is_decimal(kind) and kind.scale == 0)
    )


class IdentifierCodec(Codec):
    """Makes keys; its only slot says which cells are null.

    Args:
        name: The column.
        arrow_type: Exact type of the cells.
        nulls: Share of nulls among the rows learned; None where the column has no nulls.
        maker: Formats of texts or bytes.
        spans: Ranges of integers; one of `maker`, `spans`, `start` is given.
        start: First integer of a sequence without gaps.
        distinct: Different keys a row, in (0, 1]; below 1 for keys of another table, which rows share.

    """

    kind: ClassVar[str] = "identifier"

    def __init__(
        self,
        name: str,
        arrow_type: pa.DataType,
        *,
        nulls: float | None,
        maker: KeyMaker | None = None,
        spans: tuple[Span, ...] = (),
        start: int | None = None,
        as_bytes: bool = False,
        distinct: float = 1.0,
    ) -> None:
        self.name, self.arrow_type, self.nulls, self.distinct = name, arrow_type, nulls, distinct
        self.slots = null_slots(name, nullable=nulls is not None)
        self._maker, self._spans, self._start, self._as_bytes = maker, spans, start, as_bytes

    @property
    def regex(self) -> str | None:
        """Regular expression that every made key matches; None for integers and for bytes."""
        return None if self._maker is None or self._as_bytes else self._maker.regex

    def encode(self, array: pa.Array) -> Encoded:
        """Encode which cells are null."""
        return presence(array, self.slots)

    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Make the keys of the given rows.

        Raises:
            DataError: The integer type cannot count so many rows.

        """
        key = draw_key(seed, "identifier", self.name)
        if self.distinct < 1.0:
            rows = np.floor(rows * self.distinct).astype(np.uint64)
        if self._maker is not None:
            return restore_type(self._texts(tokens, self._maker.keys(rows, key=key)), self.arrow_type)
        valid = tokens[:, 0] == 0 if self.slots else np.ones(len(rows), dtype=np.bool_)
        return from_ordinal(self._integers(rows, key), valid, self.arrow_type)

    def _texts(self, tokens: IntArray, keys: npt.NDArray[np.object_]) -> pa.Array:
        if not is_binary_like(self.arrow_type):
            return cells_with_nulls(keys, tokens, pa.large_string())
        encoding = "latin-1" if self._as_bytes else "utf-8"
        cells = np.empty(len(keys), dtype=object)
        cells[:] = [key.encode(encoding) for key in keys]
        return cells_with_nulls(cells, tokens, pa.large_binary())

    def _integers(self, rows: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.int64]:
        """Ordinals of the keys."""
        _, last = _limits(self.arrow_type)
        if self._start is not None:
            self._check_room(rows, last - self._start + 1)
            return _offset(rows, self._start, self.arrow_type)
        made = np.zeros(len(rows), dtype=np.int64)
        beyond = np.zeros(len(rows), dtype=np.bool_)
        edges = np.cumsum([share for _, _, share in self._spans])
        chosen = np.searchsorted(edges / edges[-1], uniform(rows, key), side="right")
        for number, (low, high, _) in enumerate(self._spans):
            room = min(high - low + 1, _MAX_ROOM)
            mine = np.flatnonzero(chosen == number)
            fits = rows[mine] < np.uint64(room)
            where = mine[fits]
            index = permute(rows[where], room, key + 16 * (number + 1))
            made[where] = _offset(index, low, self.arrow_type)
            beyond[mine[~fits]] = True
        if beyond.any():
            above = max(high for _, high, _ in self._spans) + 1
            self._check_room(rows[beyond], last - above + 1)
            made[beyond] = _offset(rows[beyond], above, self.arrow_type)
        return made

    def _check_room(self, rows: npt.NDArray[np.uint64], room: int) -> None:
        if len(rows) and int(rows.max()) >= room:
            raise DataError(
                f"column {self.name!r}: {base_type(self.arrow_type)} has no room for so many different keys",
                hint=f"ask for fewer rows, or set the kind of {self.name!r} to number",
            )

    @property
    def null_token(self) -> int | None:
        """Token of null."""
        return NULL if self.slots else None

    def log_prior(self) -> list[npt.NDArray[np.float32] | None]:
        """Log frequencies of "there" and "null"."""
        return null_log_prior(self.slots, self.nulls or 0.0)

    def state(self) -> CodecState:
        """The format."""
        values: dict[str, Any] = {"name": self.name, "nulls": self.nulls, "start": self._start}
        values["formats"] = None if self._maker is None else self._maker.to_json()
        values["spans"] = [list(span) for span in self._spans]
        values["as_bytes"], values["distinct"] = self._as_bytes, self.distinct
        return CodecState(self.kind, values)

    @classmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild the codec."""
        values = state.values
        formats = values["formats"]
        return cls(
            values["name"],
            arrow_type,
            nulls=values["nulls"],
            maker=None if formats is None else KeyMaker.from_json(formats),
            spans=tuple((int(low), int(high), float(share)) for low, high, share in values["spans"]),
            start=values["start"],
            as_bytes=bool(values["as_bytes"]),
            distinct=float(values["distinct"]),
        )


class IdentifierFitter(Fitter):
    """Learns the format of keys.

    Args:
        column: The column; its bounds and distinct count tell a sequence.
        arrow_type: Exact type of the cells.
        privacy: `min_category_rows` rows must share the separators of a format.

    Raises:
        DataError: Cells of the type cannot be keys.

    """

    def __init__(self, column: ColumnSchema, arrow_type: pa.DataType, privacy: PrivacySpec) -> None:
        if not is_key_type(arrow_type):
            raise DataError(f"column {column.name!r}: cells of type {arrow_type} cannot be identifiers")
        self._column, self._type, self._privacy = column, arrow_type, privacy
        self._rows = self._nulls = 0
        self._digits: Counter[tuple[bool, int]] = Counter()
        self._texts, self._bytes = FormatStats(), FormatStats(binary=True)
        self._is_text = True

    def observe(self, array: pa.Array, first_row: int) -> None:
        """Count digits, or characters by position."""
        missing = is_null(array)
        self._rows += len(array)
        self._nulls += int(missing.sum())
        if is_orderable(self._type):
            self._observe_integers(array)
        elif is_string_like(self._type):
            self._texts.observe(array)
        else:
            self._observe_bytes(plain(array))

    def _observe_integers(self, array: pa.Array) -> None:
        ordinals, valid = to_ordinal(array)
        kept = np.asarray(ordinals[valid])
        if kept.dtype == np.float64:
            limit = 10.0**_WIDE_DECIMAL_DIGITS - 1
            kept = np.clip(kept, -limit, limit).astype(np.int64)
        if pa.types.is_uint64(base_type(self._type)):
            negative, size = np.zeros(len(kept), dtype=np.bool_), kept.view(np.uint64) ^ np.uint64(1 << 63)
        else:
            # The smallest integer has no positive twin, so the magnitude is formed without sign.
            negative = kept < 0
            size = np.where(negative, -1 - kept, kept).astype(np.uint64) + negative.astype(np.uint64)
        digits = np.searchsorted(_POWERS, size, side="right") + 1
        for sign in (False, True):
            lengths, counts = np.unique(digits[negative == sign], return_counts=True)
            for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
                self._digits[sign, length] += count

    def _observe_bytes(self, cells: pa.Array) -> None:
        self._bytes.observe(cells)
        if not self._is_text:
            return
        try:
            self._texts.observe(cells.cast(pa.large_string()))
        except pa.ArrowInvalid:
            self._is_text = False

    def merge(self, other: Self) -> None:
        """Add the counts of another fitter."""
        self._rows += other._rows
        self._nulls += other._nulls
        self._digits.update(other._digits)
        self._texts.merge(other._texts)
        self._bytes.merge(other._bytes)
        self._is_text &= other._is_text

    def finish(self) -> IdentifierCodec:
        """Decide the format."""
        nulls = self._nulls / max(self._rows, 1) if self._column.nullable else None
        if is_orderable(self._type):
            start = self._sequence_start()
            spans = () if start is not None else self._spans()
            return IdentifierCodec(
                self._column.name, self._type, nulls=nulls, spans=spans, start=start, distinct=self._distinct()
            )
        maker, as_bytes = self._maker()
        return IdentifierCodec(self._column.name, self._type, nulls=nulls, maker=maker, as_bytes=as_bytes)

    def _distinct(self) -> float:
        there = self._rows - self._nulls
        # Beyond a million, distinct values were only counted from below.
        unsure = self._column.distinct >= 1_000_000 or there <= self._column.distinct
        return 1.0 if unsure else self._column.distinct / there

    def _maker(self) -> tuple[KeyMaker, bool]:
        as_bytes = is_binary_like(self._type) and not self._is_text
        stats = self._bytes if as_bytes else self._texts
        variants = stats.variants(min_rows=self._privacy.min_category_rows, capacity=self._wanted())
        if pa.types.is_fixed_size_binary(base_type(self._type)):
            width = int(base_type(self._type).byte_width)
            fitting = tuple(v for v in variants if len("".join(a[0] for a in v.alphabets).encode()) == width)
            if as_bytes:
                fitting = tuple(v for v in variants if len(v.alphabets) == width)
            if not fitting:
                return KeyMaker([Variant((BYTES,) * width)]), True
            variants = fitting
        return KeyMaker(variants), as_bytes

    def _wanted(self) -> int:
        return _HEADROOM * max(self._rows, self._column.distinct, 1)

    def _sequence_start(self) -> int | None:
        """First number of a sequence without gaps, its first digit kept; None where there are gaps."""
        low, high, distinct = self._column.minimum, self._column.maximum, self._column.distinct
        if isinstance(low, str) or isinstance(high, str) or low is None or high is None or distinct < 2:
            return None
        if distinct < _DENSE * (high - low + 1) or low < 0:
            return None
        # The protected minimum is the mean of the k smallest keys, (k - 1) / 2 steps above the first.
        step = (high - low + 1) / distinct
        first = max(round(low - step * (min(self._privacy.protect_extremes, distinct) - 1) / 2), 0)
        start = first if first < 10 else int(str(first)[0]) * 10 ** (len(str(first)) - 1)
        _, last = _limits(self._type)
        return start if start + _HEADROOM * distinct <= last else None

    def _spans(self) -> tuple[Span, ...]:
        """Ranges of integers by sign and number of digits that have room, else one that has."""
        first, last = _limits(self._type)
        spans: list[Span] = []
        for (negative, digits), count in sorted(self._digits.items()):
            low, high = 10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1
            low, high = (-high, min(-low, -1)) if negative else (low, high)
            low, high = max(low, first), min(high, last)
            if high - low + 1 >= self._wanted():
                spans.append((low, high, float(count)))
        if spans:
            return tuple(spans)
        digits = max((d for _, d in self._digits), default=1)
        while 10**digits - 10 ** (digits - 1) < self._wanted():
            digits += 1
        low, high = 10 ** (digits - 1) if digits > 1 else 0, min(10**digits - 1, last)
        if high - low + 1 >= self._wanted():
            return ((low, high, 1.0),)
        # A narrow type: all of it, its negative half only where there were negative keys or no other room.
        negatives = any(sign for sign, _ in self._digits)
        return ((first if negatives or last + 1 < self._column.distinct else 0, last, 1.0),)


def _limits(arrow_type: pa.DataType) -> tuple[int, int]:
    """Smallest and largest integer key of a type."""
    kind = base_type(arrow_type)
    if pa.types.is_decimal(kind):
        limit = 10 ** min(int(kind.precision), 18) - 1
        if kind.precision > 18:
            limit = 10**_WIDE_DECIMAL_DIGITS - 1
        return -limit, limit
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(limits.min), int(limits.max)


def _offset(index: npt.NDArray[np.uint64], start: int, arrow_type: pa.DataType) -> npt.NDArray[np.int64]:
    """Ordinals of the integers start + index."""
    shift = 2**63 if pa.types.is_uint64(base_type(arrow_type)) else 0
    with np.errstate(over="ignore"):
        moved = index + np.uint64((start - shift) % 2**64)
    return moved.view(np.int64)
