"""What one streaming pass learns about a column, in memory that does not grow with the rows."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs.formats import FormatStats
from tabvae_core.codecs.ordinal import (
    base_type,
    is_binary_like,
    is_orderable,
    is_string_like,
    plain,
    to_ordinal,
)
from tabvae_core.tables import row_hash

__all__ = ["ColumnStats", "DistinctCounter", "Extremes"]

_MIN_PENDING = 131_072
_SIGN = np.uint64(1 << 63)


class DistinctCounter:
    """Counts distinct 64-bit hashes exactly up to a cap, then on a sample of the hashes (Gibbons, 2001).

    Beyond the cap only hashes that end in `level` zero bits are kept, so memory stays bounded and a
    repeated value is still found when its hash is among those kept.

    Args:
        cap: Hashes held at most.

    """

    def __init__(self, cap: int) -> None:
        self._cap, self._level = cap, 0
        self._sorted: npt.NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._pending: list[npt.NDArray[np.uint64]] = []
        self._pending_size = 0
        self.has_repeats = False
        """Whether a value was seen twice."""

    def add(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Count the hashes of some cells; shape (n,)."""
        if self._level:
            hashes = hashes[hashes & self._mask == 0]
        self._pending.append(hashes)
        self._pending_size += len(hashes)
        if self._pending_size >= max(_MIN_PENDING, len(self._sorted) // 2):
            self._settle()

    @property
    def _mask(self) -> np.uint64:
        return np.uint64((1 << self._level) - 1)

    def _settle(self) -> None:
        if not self._pending_size:
            return
        every = np.sort(np.concatenate([self._sorted, *self._pending]))
        self._pending, self._pending_size = [], 0
        fresh = np.ones(len(every), dtype=np.bool_)
        fresh[1:] = every[1:] != every[:-1]
        self.has_repeats |= not fresh.all()
        self._sorted = every[fresh]
        while len(self._sorted) > self._cap:
            self._level += 1
            self._sorted = self._sorted[self._sorted & self._mask == 0]

    def estimate(self) -> int:
        """Distinct values: exact up to the cap, an estimate beyond it."""
        self._settle()
        return len(self._sorted) << self._level

    def count(self) -> int:
        """Distinct values: exact up to the cap, the cap (a lower bound, but for chance) beyond it."""
        self._settle()
        return len(self._sorted) if self._level == 0 else self._cap


class Extremes:
    """The k smallest and k largest ordinals of a column, and how many rows hold the outermost ones.

    Args:
        k: Values kept at each end.

    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._low: list[int | float] = []
        self._high: list[int | float] = []
        self._low_rows = self._high_rows = 0

    def add(self, ordinals: npt.NDArray[Any]) -> None:
        """Take in ordinals, shape (n,)."""
        if len(ordinals) == 0:
            return
        low, high = ordinals.min(), ordinals.max()
        low_rows, high_rows = int((ordinals == low).sum()), int((ordinals == high).sum())
        if not self._low or low < self._low[0]:
            self._low_rows = 0
        if not self._high or high > self._high[0]:
            self._high_rows = 0
        k = min(self._k, len(ordinals))
        smallest = np.partition(ordinals, k - 1)[:k].tolist()
        largest = np.partition(ordinals, len(ordinals) - k)[-k:].tolist()
        self._low = heapq.nsmallest(self._k, self._low + smallest)
        self._high = heapq.nlargest(self._k, self._high + largest)
        self._low_rows += low_rows if low == self._low[0] else 0
        self._high_rows += high_rows if high == self._high[0] else 0

    @property
    def exact(self) -> tuple[int | float, int | float] | None:
        """Smallest and largest ordinal; never leaves the pass."""
        return (self._low[0], self._high[0]) if self._low else None

    def protected(self, shared_rows: int) -> tuple[int | float, int | float] | None:
        """Bounds that stand for no single row: the mean of the k outermost at each end.

        Args:
            shared_rows: Rows that must hold an outermost value for it to be kept as it is.

        """
        if not self._low:
            return None
        low = self._low[0] if self._low_rows >= shared_rows else _mean(self._low)
        high = self._high[0] if self._high_rows >= shared_rows else _mean(self._high)
        return low, high


def _mean(values: list[int | float]) -> int | float:
    """Mean without overflow; of integers the nearest integer, exact beyond 2^53."""
    if isinstance(values[0], int):
        total = sum(int(value) for value in values)
        return (2 * total + len(values)) // (2 * len(values))
    return float(sum(value / len(values) for value in values))


@dataclass
class ColumnStats:
    """Running figures of one column.

    Args:
        arrow_type: Exact type of the cells.
        distinct: Counter of distinct values.
        extremes: Outermost values.

    """

    arrow_type: pa.DataType
    distinct: DistinctCounter
    extremes: Extremes
    rows: int = 0
    nulls: int = 0
    characters: int = 0
    """Characters or bytes of all texts together."""
    is_text: bool = True
    """Whether all bytes seen are UTF-8."""
    formats: FormatStats = field(init=False)
    """Formats of texts or bytes; only followed while no value repeats."""

    def __post_init__(self) -> None:
        self.formats = FormatStats(binary=is_binary_like(self.arrow_type))
        self._texts = FormatStats()

    @property
    def there(self) -> int:
        """Cells that are not null."""
        return self.rows - self.nulls

    @property
    def share_distinct(self) -> float:
        """Distinct values a cell that is there."""
        return self.distinct.estimate() / max(self.there, 1)

    @property
    def is_unique(self) -> bool:
        """Whether no value was seen twice."""
        self.distinct.estimate()
        return self.there > 0 and not self.distinct.has_repeats

    @property
    def is_key_like(self) -> bool:
        """Whether texts or bytes, all different, have the format of keys."""
        return self.formats.is_key_like or (self.is_text and self._texts.is_key_like)

    @property
    def mean_length(self) -> float:
        """Mean characters or bytes of a text."""
        return self.characters / max(self.there, 1)

    def observe(self, array: pa.Array) -> None:
        """Take in cells."""
        self.rows += len(array)
        if is_orderable(self.arrow_type):
            self._observe_ordinals(array)
        elif is_string_like(self.arrow_type) or is_binary_like(self.arrow_type):
            self._observe_texts(plain(array))
        else:
            self.nulls += _logical_nulls(array)

    def _observe_ordinals(self, array: pa.Array) -> None:
        ordinals, valid = to_ordinal(array)
        kept = np.asarray(ordinals[valid])
        self.nulls += len(array) - len(kept)
        self.extremes.add(kept)
        # 0.0 and -0.0 are one value; the mixing of row_hash is one to one, so integers are counted exactly.
        bits = (kept + 0.0 if kept.dtype == np.float64 else kept).view(np.uint64)
        self.distinct.add(row_hash(bits, 0))

    def _observe_texts(self, cells: pa.Array) -> None:
        there = cells.drop_null()
        self.nulls += len(cells) - len(there)
        if len(there) == 0:
            return
        is_bytes = pa.types.is_large_binary(there.type)
        lengths = pc.binary_length(there) if is_bytes else pc.utf8_length(there)
        self.characters += int(pc.sum(lengths).as_py())
        different = there.unique()
        hashes = pd.util.hash_array(different.to_numpy(zero_copy_only=False).astype(object), categorize=False)
        self.distinct.add(np.asarray(hashes, dtype=np.uint64))
        self.distinct.has_repeats |= len(different) < len(there)
        if not self.distinct.has_repeats:
            self.formats.observe(there)
            if is_bytes:
                self._observe_bytes_as_text(there)

    def _observe_bytes_as_text(self, cells: pa.Array) -> None:
        try:
            self._texts.observe(cells.cast(pa.large_string()))
        except pa.ArrowInvalid:
            self.is_text = False

    @property
    def digits(self) -> tuple[int, int] | None:
        """Digits of the smallest and the largest integer; None where there are none or signs differ."""
        exact = self.extremes.exact
        if exact is None:
            return None
        shift = 2**63 if pa.types.is_uint64(base_type(self.arrow_type)) else 0
        low, high = int(exact[0]) + shift, int(exact[1]) + shift
        return None if low < 0 else (len(str(low)), len(str(high)))


def _logical_nulls(array: pa.Array) -> int:
    """Nulls of a nested or exotic array, where some types count none by themselves."""
    if pa.types.is_null(array.type):
        return len(array)
    return int(array.null_count)
